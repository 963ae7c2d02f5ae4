"""torch.compile for the norms and MLPs of layers; attention, and so the ring, is not compiled."""

from collections.abc import Iterable

import torch

from contextgraft.config.training import Recipe
from contextgraft.errors import InputError
from contextgraft.training.activations.tiled_mlp import MLP

NORM = "norm"  # ends the names of their classes
REMEDY = "remove compile from the recipe"


def compile_layers(layers: Iterable[torch.nn.Module]) -> None:
    """Compile the forward pass of each norm and MLP; InputError for layers that have neither.

    What is compiled for one layer serves all of its shapes. Norms inside an MLP are compiled with it.
    """
    for layer in layers:
        mlps = [module for name, module in layer.named_children() if name in MLP]
        inside = {part for mlp in mlps for part in mlp.modules()}
        norms = [
            module
            for module in layer.modules()
            if type(module).__name__.lower().endswith(NORM) and module not in inside
        ]
        if not (mlps or norms):
            raise InputError(
                "compile does not know the layers of this architecture",
                expected=f"norms, or a module named {' or '.join(MLP)}",
                received=type(layer).__name__,
                remedy=REMEDY,
            )
        for module in (*norms, *mlps):
            module.forward = torch.compile(module.forward)


def check_compiler(recipe: Recipe, device: torch.device) -> None:
    """Raise InputError if the recipe wants torch.compile and there is no compiler for this device."""
    if not recipe.compile:
        return
    try:
        torch.compile(torch.nn.functional.silu)(torch.zeros(2, device=device))
    except (RuntimeError, ImportError, OSError) as error:
        raise InputError(
            "torch.compile does not work on this machine",
            expected="a C++ compiler, and Triton for GPUs",
            received=str(error).strip().partition("\n")[0],
            remedy=REMEDY,
        ) from None
