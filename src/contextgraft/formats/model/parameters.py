"""Weights that are parameters of a module of transformers' own, not of a linear layer: experts in one tensor.

PEFT adapts them by `target_parameters` (its ParamWrapper), under the names of the model in memory.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.formats.model.runtime_names import RuntimeModel, loaded_alone, runtime_model
from contextgraft.formats.tensor_names import is_stacked

EXPERT = re.compile(r"\.experts\.(\d+)\.")
STACK, ROWS = ("MergeModulelist", 0), ("Concatenate", 1)  # steps of transformers' conversions
PLAIN = ("Linear", "Embedding", "Conv1D")  # classes whose weights PEFT adapts as modules


@dataclass(frozen=True)
class ModuleParameter:
    """A stored tensor as a parameter in memory; `order` is its position among its module's parameters.

    `inputs_first`: PEFT's lora_A has the length of the middle dimension of the stored [experts, ., .], and
    not of the last. `kind` is the module's class.
    """

    name: str
    order: int
    inputs_first: bool
    kind: str

    @property
    def is_plain(self) -> bool:
        """Whether PEFT adapts the module, and not the parameter."""
        return self.kind in PLAIN


@dataclass(frozen=True)
class ExpertPart:
    """Where transformers puts a weight that is stored by expert: rows from `start` of one expert's matrix.

    `parameter` is the stack [experts, rows, columns] in memory, `shape` its shape.
    """

    parameter: str
    expert: int
    start: int
    shape: tuple[int, ...]


def is_parameter(info: TensorInfo) -> bool:
    """Whether a tensor with factors is one that no linear layer has, by its shape and its name."""
    return is_stacked(info) or not info.name.endswith(".weight")


def module_parameters(model: ModelFolder) -> Mapping[str, ModuleParameter]:
    """The parameter in memory of every stored tensor that transformers loads as it is, by its stored name.

    Empty where transformers is missing or has no class for the config.
    """
    runtime = runtime_model(model.config)
    if runtime is None:
        return {}
    stored = {info.name: info.shape for info in model.tensors.values()}
    parameters = {}
    for tensor, shape in stored.items():
        name = loaded_alone(runtime, tensor)
        if name is not None:
            owner, as_stored = runtime.owners[name], runtime.shapes[name] == shape
            parameters[tensor] = ModuleParameter(
                name, owner.order, owner.last_is_input != as_stored, owner.kind
            )
    return parameters


def expert_parts(model: RuntimeModel, stored: Mapping[str, tuple[int, ...]]) -> dict[str, ExpertPart]:
    """The place of each weight of single experts in the stack of transformers' class; `stored` are shapes.

    The order of weights that are concatenated is that of transformers' conversion mapping. Weights that it
    stacks in another way than by expert and along rows are left out.
    """
    from transformers.core_model_loading import rename_source_key  # noqa: PLC0415

    renamings, converters, shapes = list(model.renamings), list(model.converters), dict(model.shapes)
    parts = {}
    for name, shape in stored.items():
        number = EXPERT.search(name)
        if number is None:
            continue
        parameter, pattern = rename_source_key(name, renamings, converters, model.prefix, shapes)
        converter = next((entry for entry in converters if pattern in entry.source_patterns), None)
        whole = shapes.get(parameter, ())
        if converter is None or len(whole) != 3 or len(shape) != 2 or not _stacks_rows(converter):
            continue
        count, position = len(converter.source_patterns), converter.source_patterns.index(pattern)
        if (shape[0] * count, shape[1]) == whole[1:] and int(number[1]) < whole[0]:
            parts[name] = ExpertPart(parameter, int(number[1]), position * shape[0], whole)
    return parts


def _stacks_rows(converter: Any) -> bool:
    """Whether a converter of transformers stacks experts, and concatenates their rows."""
    steps = [(type(step).__name__, step.dim) for step in converter.operations if hasattr(step, "dim")]
    whole = len(steps) == len(converter.operations) and len(converter.target_patterns) == 1
    return whole and steps in ([STACK], [STACK, ROWS])
