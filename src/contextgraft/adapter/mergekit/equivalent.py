"""Which merge of LoRA adapters into one target a configuration of mergekit means; the rest is refused.

The meanings are those of mergekit's methods: a weighted mean (`linear`), a base plus weighted differences
(`task_arithmetic`), and one model as it is (`passthrough`).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextgraft.adapter.mergekit.schema import MergekitConfig, MergekitInput
from contextgraft.config.base import read_yaml, validate
from contextgraft.config.mistakes import MistakeCollector
from contextgraft.errors import ConfigError

IGNORED = ("int8_mask", "density", "rescale")  # parameters without effect on these methods
EXACT = 1e-9  # how far weights may be from adding up to 1


@dataclass(frozen=True)
class MergekitMerge:
    """A merge of adapters into a target, with the factor of each; `dtypes` are the names in the file."""

    target: Path
    adapters: Mapping[Path, float]
    dtype: str | None
    out_dtype: str | None


REFUSED = {
    "slices": "stacks or chooses layers, which contextgraft does not; where every layer is used once, "
    "write `models:` instead",
    "modules": "modules are merged by rules of their own; contextgraft has one rule for all of them",
    "tokenizer_source": "contextgraft keeps the target's tokenizer; remove the key if that is meant",
    "tokenizer": "contextgraft keeps the target's tokenizer; remove the key if that is meant",
    "chat_template": "contextgraft keeps the target's chat template; remove the key if that is meant",
}


def read_mergekit(path: Path) -> MergekitMerge:
    """The merge that a configuration of mergekit means; ConfigError with every reason if it has none here."""
    data = read_yaml(path)
    collector = MistakeCollector()
    if isinstance(data, dict):
        for key in [key for key in REFUSED if data.get(key) is not None]:
            with collector.check():
                raise ConfigError(f"{key}: {REFUSED[key]}", path=path)
        data = {key: value for key, value in data.items() if key not in REFUSED}
        method = data.get("merge_method")
        if not (isinstance(method, str) and method in METHODS):
            with collector.check():
                raise ConfigError(
                    "merge_method: has no equivalent", path=path, expected=f"one of {', '.join(METHODS)}",
                    received=repr(method), remedy="run mergekit-yaml",
                )  # fmt: skip
    collector.raise_mistakes()
    config = validate(MergekitConfig, data, path)
    target, adapters = METHODS[config.merge_method](_Inputs(config, path))
    if not adapters:
        raise ConfigError(
            "names no LoRA adapter to add", path=path, expected="model: MODEL+ADAPTER",
            remedy="make one: `contextgraft extract --base BASE --donor DONOR --rank 32 --out DIR`",
        )  # fmt: skip
    return MergekitMerge(target, adapters, config.dtype, config.out_dtype)


@dataclass(frozen=True)
class _Inputs:
    """A configuration with the parameters of its models resolved as mergekit does."""

    config: MergekitConfig
    path: Path

    def refuse(self, reason: str, remedy: str | None = None) -> ConfigError:
        """The error that the file has no equivalent."""
        return ConfigError(f"{self.config.merge_method}: {reason}", path=self.path, remedy=remedy)

    def shared(self, name: str, default: Any) -> Any:
        """A parameter of the whole merge."""
        return self.config.parameters.get(name, default)

    def flag(self, name: str, default: bool) -> bool:
        """A parameter of the whole merge that is true or false."""
        value = self.shared(name, default)
        if not isinstance(value, bool):
            raise self.refuse(f"parameter {name}: should be true or false, not {value!r}")
        return value

    def number(self, name: str, item: MergekitInput | None, default: float | None) -> float:
        """A parameter of one model, or of the whole merge; it must be the same for all tensors."""
        own = item.parameters if item is not None else {}
        value = own.get(name, self.shared(name, default))
        if value is None:
            raise self.refuse(f"the parameter {name} is missing")
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise self.refuse(
                f"parameter {name}: {value!r} is not one number; lists (gradients over layers) and "
                "filters by module have no equivalent"
            )
        return number

    def total(self, weights: Iterable[float]) -> float:
        """The sum of weights; ConfigError if it, or one of them, is too large for a number."""
        try:
            total = math.fsum(weights)
        except (OverflowError, ValueError):  # ValueError: inf and -inf
            total = math.inf
        if not math.isfinite(total):
            raise self.refuse("the weights, or their sum, are too large for a number")
        return total

    def scales(self, weighted: Iterable[tuple[MergekitInput, float]]) -> dict[Path, float]:
        """The factor of each adapter; one that several models have gets the sum."""
        scales: dict[Path, float] = {}
        for item, share in weighted:
            if item.model.lora is not None:
                source = item.model.lora.source
                scales[source] = self.total((scales.get(source, 0.0), share))
        return scales

    def models(self, *known: str) -> Sequence[MergekitInput]:
        """The models, if no parameter but the known ones is given and none is listed twice."""
        given = [self.config.parameters, *(item.parameters for item in self.config.models)]
        unknown = sorted({name for names in given for name in names} - {*known, *IGNORED})
        if unknown:
            raise self.refuse(f"unknown parameters: {', '.join(unknown)}; expected {', '.join(known)}")
        listed = [item.model for item in self.config.models]
        if len(set(listed)) < len(listed):
            raise self.refuse("a model is listed twice, which mergekit refuses, too")
        return self.config.models


Result = tuple[Path, Mapping[Path, float]]


def _linear(inputs: _Inputs) -> Result:
    """The weighted mean of TARGET, TARGET+A, TARGET+B...: the target plus each delta by its share."""
    models = inputs.models("weight", "normalize")
    weights = [inputs.number("weight", item, None) for item in models]
    total = inputs.total(weights)
    if inputs.flag("normalize", default=True):
        if total == 0:
            raise inputs.refuse("the weights add up to 0")
        weights = [weight / total for weight in weights]
    elif abs(total - 1) > EXACT:
        raise inputs.refuse(f"the weights add up to {total:g}, not 1: the target itself would be scaled")
    base = inputs.config.base_model
    if base is not None and base not in [item.model for item in models]:
        raise inputs.refuse("base_model is not among the models: mergekit would average it, too")
    target = models[0].model.model
    other = next((item.model.model for item in models if item.model.model != target), None)
    if other is not None:
        raise inputs.refuse(f"averages {target.path} and {other.path}; expected adapters on one model")
    return target.source, inputs.scales(zip(models, weights, strict=True))


def _task_arithmetic(inputs: _Inputs) -> Result:
    """Base plus differences: those of BASE+A are deltas; that of another model makes it the target."""
    models = inputs.models("weight", "normalize", "lambda")
    base = inputs.config.base_model
    if base is None or base.lora is not None:
        raise inputs.refuse("needs a base_model without an adapter")
    listed = [item for item in models if item.model != base]
    weights = [inputs.number("weight", item, None) for item in listed]
    factor = inputs.number("lambda", None, 1.0)
    total = inputs.total(weights)
    if inputs.flag("normalize", default=False) and abs(total) >= 1e-8:
        factor /= total
    shares = [weight * factor for weight in weights]
    targets = {item.model.model for item in listed} - {base.model}
    if len(targets) > 1:
        names = ", ".join(sorted(target.path for target in targets))
        raise inputs.refuse(
            f"adds the whole differences of several models ({names}); contextgraft adds LoRA adapters",
            remedy=f"make an adapter of each donor: `contextgraft extract --base {base.model.source} "
            "--donor DONOR --rank 32 --out adapters`, and merge it",
        )
    if not targets:
        return base.model.source, inputs.scales(zip(listed, shares, strict=True))
    (target,) = targets
    own = inputs.total(
        share for item, share in zip(listed, shares, strict=True) if item.model.model == target
    )
    if abs(own - 1) > EXACT:
        raise inputs.refuse(
            f"adds {own:g} times the whole difference of {target.path}; contextgraft adds LoRA adapters",
            remedy=f"`contextgraft extract --base {base.model.source} --donor {target.source} --rank 32 "
            f"--out adapters`, then `contextgraft merge --adapter adapters/r32 --scale {own:g}`",
        )
    return target.source, inputs.scales(zip(listed, shares, strict=True))


def _passthrough(inputs: _Inputs) -> Result:
    """One model as it is, with its adapter."""
    models = inputs.models("scale")
    base = inputs.config.base_model
    if len(models) > 1 or (base is not None and base != models[0].model):
        raise inputs.refuse("takes one model")
    scale = inputs.number("scale", models[0], 1.0)
    if scale != 1:
        raise inputs.refuse(f"multiplies all weights by {scale:g}, which contextgraft does not")
    return models[0].model.model.source, inputs.scales([(models[0], 1.0)])


METHODS: dict[str, Callable[[_Inputs], Result]] = {
    "linear": _linear,
    "task_arithmetic": _task_arithmetic,
    "passthrough": _passthrough,
}
