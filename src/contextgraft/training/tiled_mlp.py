"""MLPs that compute a sequence tile by tile, so that their large inner activations are those of one tile.

Each tile's inside is computed again in the backward pass (as in Arctic Long Sequence Training, arXiv
2506.13996). The result is the same; the gradients of the weights are sums over tiles, in their dtype.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from contextgraft.errors import InputError

MLP = ("mlp", "feed_forward", "ffn")  # names of a layer's MLP in transformers


def tile_mlps(layers: Iterable[torch.nn.Module], tiles: int) -> None:
    """Compute the MLP of every layer in so many tiles; a layer without an MLP raises InputError."""
    for layer in layers:
        mlp = next((getattr(layer, name) for name in MLP if hasattr(layer, name)), None)
        if mlp is None:
            raise InputError(
                "mlp_tiles does not know the layers of this architecture",
                expected=f"a module named {' or '.join(MLP)}",
                received=type(layer).__name__,
                remedy="remove mlp_tiles from the recipe",
            )
        mlp.forward = partial(_tiled, mlp.forward, tiles)


def _tiled(forward: partial[torch.Tensor], tiles: int, hidden_BLD: torch.Tensor) -> torch.Tensor:
    outs = [checkpoint(forward, tile, use_reentrant=False) for tile in hidden_BLD.chunk(tiles, dim=1)]
    if not all(isinstance(out, torch.Tensor) for out in outs):
        raise InputError("mlp_tiles: the MLPs of this architecture return more than their output")
    return torch.cat(outs, dim=1)
