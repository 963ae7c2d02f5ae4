"""The names that a model's tensors have in its class of transformers, by which PEFT addresses them.

Checkpoints of many classes are stored under other names than the modules have when the model runs:
`language_model.model.layers.0` is `model.language_model.layers.0` then, `h.0` is `transformer.h.0`.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from contextgraft.formats.tensor_names import NEUTRAL, rows_are_tokens
from contextgraft.rope.model_class import infinite, quiet_transformers

HEADED = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")  # endings of classes with an output layer
# endings of classes that have another output in its place, those of repositories among them
OTHER_OUTPUT = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "RewardModel")
DROPPED = ("quantization_config", "auto_map")
# names that every class without sections in its config has in its files and in memory
UNCHANGED = re.compile(
    r"(lm_head|model\.(embed_tokens|norm|layers\.\d+\.(\w*norm|(self_attn|mlp)\.\w+)))\.(weight|bias)"
)
# mappings in a config that are no configs of modules: those of every config class of transformers
NOT_SECTIONS = ("rope_scaling", "rope_parameters", "id2label", "label2id", "task_specific_params", *DROPPED)


@dataclass(frozen=True)
class ParameterOwner:
    """The class of the module that has a parameter, and the parameter's position among the module's.

    `last_is_input`: of stacked experts, PEFT takes the last dimension for the input.
    """

    kind: str
    order: int
    last_is_input: bool


@dataclass(frozen=True)
class RuntimeModel:
    """A model as its class builds it: the shape of each tensor by name, and what renames stored tensors.

    `converters` stack or split tensors, such as experts; `prefix` is that of the model without its head.
    """

    shapes: Mapping[str, tuple[int, ...]]
    prefix: str
    renamings: tuple[Any, ...]
    converters: tuple[Any, ...]
    owners: Mapping[str, ParameterOwner]

    def name(self, stored: str) -> str:
        """The name of a stored tensor in the model; of one that is stacked, the name before that."""
        from transformers.core_model_loading import (  # noqa: PLC0415 - optional, and imports torch
            apply_renamings,
            rename_source_key,
        )

        renamed: str = apply_renamings(stored, list(self.renamings))
        final: str
        final, converted = rename_source_key(
            stored, list(self.renamings), list(self.converters), self.prefix, dict(self.shapes)
        )
        return renamed if converted or final not in self.shapes else final

    def loads(self, stored: str) -> bool:
        """Whether a stored tensor becomes a parameter of the model, alone or with others."""
        from transformers.core_model_loading import rename_source_key  # noqa: PLC0415 - as above

        name, converted = rename_source_key(
            stored, list(self.renamings), list(self.converters), self.prefix, dict(self.shapes)
        )
        return converted is not None or name in self.shapes


def loaded_alone(model: RuntimeModel, stored: str) -> str | None:
    """The parameter that a stored tensor fills alone, at most transposed; None if it takes several."""
    from transformers.core_model_loading import Transpose, rename_source_key  # noqa: PLC0415

    name: str
    name, pattern = rename_source_key(
        stored, list(model.renamings), list(model.converters), model.prefix, dict(model.shapes)
    )
    steps = [
        step for entry in model.converters if pattern in entry.source_patterns for step in entry.operations
    ]
    return name if name in model.owners and all(isinstance(step, Transpose) for step in steps) else None


def not_loaded(config: Mapping[str, Any], stored: Collection[str]) -> set[str]:
    """Those of the stored tensors that the class of the model has no parameter for, and drops when it loads.

    Empty where transformers is missing or has no class.
    """
    model = runtime_model(config) if stored else None
    return set() if model is None else {name for name in stored if not model.loads(name)}


def peft_names(config: Mapping[str, Any], stored: Collection[str]) -> dict[str, str]:
    """The name of each stored tensor in an adapter that PEFT loads into the model.

    Only the components in front differ, and the output layer: PEFT itself renames modules inside layers.
    Without transformers, or a class of it for the model, the names are those that are stored. The class is
    not built (10 s of imports) where the names are those of Llama and the config has no sections.
    """
    model = None if _are_unchanged(config, stored) else runtime_model(config)
    if model is None:
        return {name: name for name in stored}
    names = {}
    for name in stored:
        runtime = model.name(name)
        same_inside = _without_front(name) == _without_front(runtime)
        names[name] = runtime if same_inside or rows_are_tokens(name) else name
    return names


def renamed_in_layers(config: Mapping[str, Any], names: Mapping[str, str]) -> set[str]:
    """Those of the stored tensors that have another name in memory than in an adapter that PEFT loads.

    `names` are those of `peft_names`. PEFT (0.21) renames the keys of an adapter's file, but not the modules
    in its config's patterns.
    """
    model = None if _are_unchanged(config, names) else runtime_model(config)
    return set() if model is None else {name for name, known in names.items() if model.name(name) != known}


def has_no_head(class_name: str | None) -> bool:
    """Whether a model's class, by its name, has no output layer; of other classes, transformers' alone.

    Names that decide nothing (`InternVLChatModel`) are of repositories, whose code is not run.
    """
    if class_name is None or class_name.endswith(HEADED):
        return False
    if class_name.endswith(OTHER_OUTPUT):
        return True
    try:
        import transformers  # noqa: PLC0415 - optional
    except ImportError:
        return False
    return hasattr(transformers, class_name)


def runtime_model(config: Mapping[str, Any]) -> RuntimeModel | None:
    """What transformers builds from a config, without memory for weights; None where it builds nothing.

    Code of a repository is never run. Imports transformers and torch.
    """
    return _runtime_model(json.dumps(config, default=str))


def _are_unchanged(config: Mapping[str, Any], stored: Collection[str]) -> bool:
    sections = (
        key for key, value in config.items() if isinstance(value, Mapping) and key not in NOT_SECTIONS
    )
    return not any(sections) and all(UNCHANGED.fullmatch(name) for name in stored)


def _without_front(name: str) -> list[str]:
    components = name.split(".")
    front = next((n for n, component in enumerate(components) if component not in NEUTRAL), len(components))
    return components[front:]


@lru_cache(maxsize=8)
def _runtime_model(text: str) -> RuntimeModel | None:
    given = json.loads(text, object_hook=infinite)
    config = {key: value for key, value in given.items() if key not in DROPPED}
    try:
        import torch  # noqa: PLC0415
        from transformers import CONFIG_MAPPING  # noqa: PLC0415
        from transformers.conversion_mapping import get_model_conversion_mapping  # noqa: PLC0415
        from transformers.core_model_loading import WeightRenaming  # noqa: PLC0415
    except ImportError:
        return None
    if config.get("model_type") not in CONFIG_MAPPING:
        return None
    try:
        with quiet_transformers():
            resolved = CONFIG_MAPPING[config["model_type"]].from_dict(config)
            model_class = _model_class(resolved)
            if model_class is None:
                return None
            with torch.device("meta"):
                model = model_class(resolved)
            transforms = get_model_conversion_mapping(model)
    except Exception:  # whatever a class raises: then nothing is known of its names
        return None
    renamings = tuple(transform for transform in transforms if isinstance(transform, WeightRenaming))
    converters = tuple(transform for transform in transforms if transform not in renamings)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return RuntimeModel(shapes, model.base_model_prefix, renamings, converters, dict(_owners(model)))


def _owners(model: Any) -> Iterator[tuple[str, ParameterOwner]]:
    for prefix, module in model.named_modules():
        last_is_input = not getattr(module, "is_transposed", False)
        for order, (name, _) in enumerate(module.named_parameters(recurse=False)):
            full = f"{prefix}.{name}".removeprefix(".")
            yield full, ParameterOwner(type(module).__name__, order, last_is_input)


def _model_class(config: Any) -> Any:
    """The class with an output that the config names, else that with an output layer for its model_type.

    The names in classes for question answering begin with `transformer` where those of Llama do with `model`.
    """
    import transformers  # noqa: PLC0415
    from transformers.models.auto import modeling_auto  # noqa: PLC0415

    named = str((config.architectures or [""])[0])
    if named.endswith(HEADED + OTHER_OUTPUT) and hasattr(transformers, named):
        return getattr(transformers, named)
    mappings = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    )
    name = next((names[config.model_type] for names in mappings if config.model_type in names), None)
    return None if name is None else getattr(transformers, name, None)
