"""adapter_config.json of any LoRA that PEFT writes: the settings that a merge uses, checked."""

import math
import re
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contextgraft.adapter.lora.module_patterns import ModulePatterns
from contextgraft.adapter.lora.parameter_names import adapted_parameters
from contextgraft.adapter.module_selection import ModuleSelection
from contextgraft.adapter.peft_keys import factor_modules
from contextgraft.checkpoint.model_folder import read_json
from contextgraft.errors import CheckpointError, first_names
from contextgraft.formats import peft

# Settings that change the meaning of the factors in ways that a merge cannot reproduce, and the remedy.
UNSUPPORTED = {
    "layer_replication": "expand the target first",
    "alora_invocation_tokens": "such an adapter is active only after certain tokens and cannot be merged",
    "arrow_config": "it chooses among other adapters for each token: merge one of those",
    "kasa_config": "merge it where it was trained",
    "use_bdlora": "merge it where it was trained",
    "use_qalora": "merge it where it was trained",
    "megatron_config": "convert it to plain PEFT first",
}
# initialisations that subtract something from the base, and those that do not
CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
UNCHANGED_BASE = ("gaussian", "eva", "orthogonal", "mica")
MOST_LISTED = 10_000  # names of modules or parameters in a list


class LoraConfig(BaseModel):
    """The keys that affect a merge, by PEFT's names; all others are ignored. `path` is the file."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    path: Path = Path(peft.ADAPTER_CONFIG)
    peft_type: str = "LORA"
    r: int = Field(default=8, ge=1)
    lora_alpha: float = 8
    use_rslora: bool = False
    use_dora: bool = False
    bias: str = "none"
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    modules_to_save: list[str] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    ensure_weight_tying: bool | None = None
    target_parameters: list[str] | None = None
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    base_model_name_or_path: str | None = None
    init_lora_weights: bool | str | None = True
    peft_version: str | None = None

    @cached_property
    def ranks(self) -> ModulePatterns[int]:
        """rank_pattern."""
        return ModulePatterns("rank_pattern", self.rank_pattern, self.path)

    @cached_property
    def alphas(self) -> ModulePatterns[float]:
        """alpha_pattern."""
        return ModulePatterns("alpha_pattern", self.alpha_pattern, self.path)

    @cached_property
    def ties_embeddings(self) -> bool | None:
        """Whether PEFT (0.21) ties what it adapts of tied embeddings; None where the config does not say.

        It does so only for modules named embed_tokens or lm_head.
        """
        if not self.ensure_weight_tying:
            return self.ensure_weight_tying
        by_pattern = isinstance(self.target_modules, str)
        named = [*(() if by_pattern else self.target_modules or ()), *(self.modules_to_save or ())]
        known = any(name.rpartition(".")[2] in peft.TIED_BY_PEFT for name in named)
        return known or (by_pattern and any(map(self.selects, peft.TIED_BY_PEFT)))

    @property
    def saves_an_end(self) -> bool:
        """Whether modules_to_save name an end of the embeddings: PEFT saves both ends if they are tied."""
        return any(name.rpartition(".")[2] in peft.TIED_BY_PEFT for name in self.modules_to_save or ())

    def selects(self, module: str) -> bool:
        """Whether PEFT gives a module of this name factors or a weight of its own, by the config alone."""
        saved = any(f".{module}".endswith(f".{name}") for name in self.modules_to_save or ())
        return saved or self.selection.is_target(module)

    @cached_property
    def selection(self) -> ModuleSelection:
        """The modules that get factors."""
        layers, targets, excluded = self.layers_to_transform, self.target_modules, self.exclude_modules
        pattern = self.layers_pattern or ()
        return ModuleSelection(
            self.path,
            frozenset(targets) if isinstance(targets, list) else targets,
            frozenset(excluded) if isinstance(excluded, list) else excluded,
            (layers,) if isinstance(layers, int) else tuple(layers or ()),
            (pattern,) if isinstance(pattern, str) else tuple(pattern),
            tuple(self.modules_to_save or ()),
        )

    def adapted_parameters(self, modules: Collection[str]) -> Mapping[str, str]:
        """The parameter that target_parameters adapt, for each of these modules with factors that has one."""
        return adapted_parameters(modules, self.target_parameters or (), self.selection.has_factors)

    def ignored_factors(self, keys: Collection[str]) -> dict[str, str]:
        """Those keys of factors that PEFT ignores, with the modules, which the config does not select.

        The copy of tied factors is selected with the original. Raises CheckpointError if no factors are left,
        and for factors of modules without target_modules: PEFT then has defaults by the type of the model.
        """
        modules = factor_modules(keys)
        parameters = self.adapted_parameters(set(modules.values()))
        tied = peft.TIED_BY_PEFT if self.ties_embeddings else ()
        selected = {
            module
            for module in dict.fromkeys(modules.values())
            if module in parameters or module.rpartition(".")[2] in tied or self.selection.has_factors(module)
        }
        if self.target_modules is None and not selected.issuperset(modules.values()):
            without = sorted({*modules.values()} - selected)
            raise CheckpointError(
                "does not say which modules its factors belong to: PEFT then chooses some by the type of the "
                "model, and ignores the others", path=self.path, expected="target_modules",
                received=f"none, and factors of {first_names(without, 3)}",
                remedy="write their names, or the last part of them, into target_modules",
            )  # fmt: skip
        if modules and not selected:
            raise CheckpointError(
                "selects none of the modules that its weights file has factors of: PEFT ignores them all",
                path=self.path, expected=f"one of {first_names(list(dict.fromkeys(modules.values())), 3)}",
                received=f"target_modules {self.target_modules!r}"[:200],
                remedy="correct target_modules, exclude_modules and layers_to_transform",
            )  # fmt: skip
        return {key: module for key, module in modules.items() if module not in selected}

    @property
    def experts_inputs_first(self) -> bool:
        """Whether PEFT took all stacked experts for [experts, in, out], as it did before version 0.19.

        It writes its version since 0.18.
        """
        version = re.match(r"(\d+)\.(\d+)", self.peft_version or "0.17")
        return version is not None and tuple(map(int, version.groups())) < (0, 19)

    def rank(self, module: str) -> int:
        """The rank that the config gives a module."""
        return self.ranks.value(module, self.r)

    def scaling(self, module: str) -> float:
        """Alpha / rank, or alpha / sqrt(rank) with rank stabilisation (Kalajdzievski 2023)."""
        rank = self.rank(module)
        alpha = self.alphas.value(module, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_config(folder: Path, models: Mapping[str, type["LoraConfig"]]) -> LoraConfig:
    """Read `adapter_config.json` by the model of its peft_type.

    An adapter that cannot be merged raises CheckpointError with the reason.
    """
    path = folder / peft.ADAPTER_CONFIG
    data = read_json(path)
    try:
        given = {key: value for key, value in data.items() if value is not None}
        model = models.get(str(given.get("peft_type", "LORA")), LoraConfig)
        start = data.get("init_lora_weights", True)  # null is another value than none
        config = model.model_validate({**given, "init_lora_weights": start, "path": path})
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(
            f"has an unusable {'.'.join(map(str, first['loc']))}",
            path=path, expected=first["msg"], received=f"{first['input']!r}"[:80],
        ) from None  # fmt: skip
    _check_kind(path, data, config, models)
    for key in ("r", "lora_alpha"):
        if key in data and data[key] is None:
            raise CheckpointError(f"has no {key}", path=path, expected="a number", received="null")
    for key in ("modules_to_save", "target_parameters"):  # each is compared with every module
        count = len(getattr(config, key) or ())
        if count > MOST_LISTED:
            raise CheckpointError(
                f"has too many {key}", path=path, expected=f"at most {MOST_LISTED:,}", received=f"{count:,}"
            )
    config.selection.check()
    config.ranks.check()
    config.alphas.check()
    numbers = (config.lora_alpha, *config.alpha_pattern.values())
    if not all(math.isfinite(number) for number in numbers) or min([1, *config.rank_pattern.values()]) < 1:
        raise CheckpointError("has an alpha that is not finite or a rank below 1", path=path)
    return config


def _check_kind(
    path: Path, data: Mapping[str, Any], config: LoraConfig, models: Mapping[str, type[LoraConfig]]
) -> None:
    if config.peft_type not in models:
        raise CheckpointError(
            "is an adapter of another kind",
            path=path,
            expected=f"peft_type {' or '.join(models)}",
            received=config.peft_type,
            remedy="merge it where it was trained",
        )  # fmt: skip
    for key, remedy in UNSUPPORTED.items():
        if data.get(key):
            raise CheckpointError(
                "has a setting with which it cannot be merged",
                path=path, expected=f"no {key}", received=f"{data[key]!r}"[:80], remedy=remedy,
            )  # fmt: skip
    start = config.init_lora_weights
    if isinstance(start, str) and start.lower().startswith(CHANGED_BASE):
        raise CheckpointError(
            "was trained on a base that its initialisation changed",
            path=path, expected="init_lora_weights true", received=start,
            remedy="convert it: peft's save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )  # fmt: skip
    if isinstance(start, str) and start.lower() not in UNCHANGED_BASE:
        raise CheckpointError(
            "was trained with an initialisation that is not known, which may have changed the base",
            path=path, expected=f"init_lora_weights true, false, {', '.join(UNCHANGED_BASE)}",
            received=start[:80], remedy="merge it with the version of PEFT that trained it",
        )  # fmt: skip
