"""How PEFT stores LoRA of parameters (target_parameters): keys and shapes.

PEFT nests a wrapper for each adapted parameter of a module, the first one innermost: the keys of the last are
`MODULE.lora_A.weight`, those before it have a `base_layer` each.

Legend of shape suffixes: E experts, M outputs, N inputs, R rank.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from contextgraft.formats.model.parameters import ModuleParameter

if TYPE_CHECKING:
    import torch

WRAPPER = ".base_layer"
# parameters of one module in the order in which the classes of transformers define them
ORDER = ("gate_up_proj", "gate_proj", "w1", "up_proj", "v1", "w3", "down_proj", "w2")


def flat_factor(factor: "torch.Tensor", kind: str) -> "torch.Tensor":
    """A [E, R, N] as PEFT stores it, [E x R, N]; B [E, M, R] as [M, R x E]."""
    if kind == "A":
        return factor.reshape(-1, factor.shape[-1])
    return factor.permute(1, 2, 0).reshape(factor.shape[1], -1)


def wrapped_modules(parameters: Collection[ModuleParameter]) -> dict[str, str]:
    """The module under whose name PEFT stores the factors of each parameter, if it adapts all of them."""
    orders: dict[str, list[int]] = {}
    for parameter in parameters:
        orders.setdefault(parameter.name.rpartition(".")[0], []).append(parameter.order)
    return {
        parameter.name: module + WRAPPER * sum(order > parameter.order for order in orders[module])
        for parameter in parameters
        for module in [parameter.name.rpartition(".")[0]]
    }


def adapted_parameters(
    modules: Iterable[str], targets: Collection[str], is_linear: Callable[[str], bool]
) -> Mapping[str, str]:
    """The parameter of each of the modules, as the weights file names them, whose wrapper adapts one.

    `targets` are the config's target_parameters, which may leave out the front of a name, also the module:
    a bare `down_proj` is of any module that other targets do not name and that is no linear layer with
    factors of its own (`is_linear`). Parameters of one module are in the order of ORDER; a module with other
    wrappers than targets has no parameter here.
    """
    levels: dict[str, list[str]] = {}
    for module in modules:
        levels.setdefault(module.replace(WRAPPER, ""), []).append(module)
    known: dict[str, str] = {}
    named = [f".{name}".rpartition(".") for name in targets]
    for bare, wrapped in levels.items():
        of_module = {name for owner, _, name in named if owner and f".{bare}".endswith(owner)}
        of_any = set() if is_linear(bare) else {name for owner, _, name in named if not owner}
        for names in (of_module | of_any, of_module):
            if len(names) == len(wrapped):
                own, innermost_first = sorted(names, key=_position), sorted(wrapped, key=len, reverse=True)
                known |= {module: f"{bare}.{name}" for module, name in zip(innermost_first, own, strict=True)}
    return known


def _position(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER)), name
