"""Weights that are parameters of a module of transformers' own, not of a linear layer: experts in one tensor.

PEFT adapts them by `target_parameters` (its ParamWrapper), under the names of the model in memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.formats.model.runtime_names import loaded_alone, runtime_model
from contextgraft.formats.tensor_names import is_stacked

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
