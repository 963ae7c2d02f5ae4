"""MLPs that compute a sequence tile by tile, so that their large inner activations are those of one tile.

Each tile's inside is computed again in the backward pass (as in Arctic Long Sequence Training, arXiv
2506.13996). The result is the same; the gradients of the weights are sums over tiles, in their dtype.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

import torch
from torch.utils.checkpoint import checkpoint

from contextgraft.errors import InputError

UNTILED = "remove mlp_tiles from the recipe"
MLP = ("mlp", "feed_forward", "ffn")  # names of a layer's MLP in transformers


def tile_mlps(layers: Iterable[torch.nn.Module], tiles: int) -> None:
    """Compute the MLP of every layer in so many tiles; a layer without an MLP raises InputError."""
    for layer in layers:
        mlp = _mlp_of(layer)
        mlp.forward = partial(_tiled, mlp.forward, tiles)


def check_tiling(layers: Iterable[torch.nn.Module], width: int) -> None:
    """Raise InputError unless every kind of MLP takes and returns one tensor, `width` wide.

    One MLP of each kind is computed for two tokens, on the processor with uninitialised weights: the layers
    may be without memory (device meta), and cannot be used afterwards.
    """
    mlps = {type(mlp): mlp for mlp in map(_mlp_of, layers)}
    for kind, mlp in mlps.items():
        try:
            with torch.no_grad():
                out = mlp.to_empty(device="cpu")(torch.zeros(1, 2, width))
        except TypeError:  # it needs more than its input
            out = None
        if not isinstance(out, torch.Tensor):
            raise InputError(
                "mlp_tiles is not supported for the MLPs of this architecture",
                expected="modules that take one tensor and return one",
                received=kind.__name__,
                remedy=UNTILED,
            )


def _mlp_of(layer: torch.nn.Module) -> torch.nn.Module:
    mlp = next((getattr(layer, name) for name in MLP if hasattr(layer, name)), None)
    if mlp is None:
        raise InputError(
            "mlp_tiles does not know the layers of this architecture",
            expected=f"a module named {' or '.join(MLP)}",
            received=type(layer).__name__,
            remedy=UNTILED,
        )
    return cast("torch.nn.Module", mlp)


def _tiled(forward: Callable[..., torch.Tensor], tiles: int, hidden_BLD: torch.Tensor) -> torch.Tensor:
    outs = [checkpoint(forward, tile, use_reentrant=False) for tile in hidden_BLD.chunk(tiles, dim=1)]
    if not all(isinstance(out, torch.Tensor) for out in outs):
        raise InputError("mlp_tiles: the MLPs of this architecture return more than their output")
    return torch.cat(outs, dim=1)
