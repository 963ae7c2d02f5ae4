"""One tensor plus what is added to it: computed in float32, rounded once, and measured on the way."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from contextgraft.adapter.delta import norm_squared
from contextgraft.adapter.folder import Change
from contextgraft.adapter.svd import TILE_ROWS
from contextgraft.checkpoint.layout import ModelFolder
from contextgraft.checkpoint.reader import DTYPES, read_rows
from contextgraft.errors import CheckpointError


@dataclass(frozen=True)
class Applied:
    """Evidence for one tensor: norms of the delta asked for and of what survived rounding, and digests."""

    applied: bool
    delta_norm: float
    survived_norm: float
    digest_before: str
    digest_after: str


def apply(
    target: ModelFolder, name: str, change: Change, write: Callable[[int, memoryview], object]
) -> Applied:
    """Add `change` to a tensor of `target`, tile by tile; `write` gets the offset in its data, and bytes.

    A result that is not finite raises CheckpointError.
    """
    info = target[name]
    before, after = hashlib.sha256(), hashlib.sha256()
    asked = survived = 0.0
    offset = 0
    for start in range(0, info.rows, TILE_ROWS):
        stop = min(start + TILE_ROWS, info.rows)
        old = read_rows(target, name, start, stop)
        delta = change.rows(start, stop)
        new = (old.float() + delta).to(DTYPES[info.dtype])
        asked += norm_squared(delta)
        survived += norm_squared(new.float() - old.float())
        data = raw(new)
        before.update(raw(old))
        after.update(data)
        write(offset, data)
        offset += data.nbytes
    if not math.isfinite(asked + survived):
        raise CheckpointError(
            f"tensor {name!r} plus the delta is not finite",
            path=target.path / info.shard,
            expected="finite weights",
        )
    return Applied(True, math.sqrt(asked), math.sqrt(survived), before.hexdigest(), after.hexdigest())


def raw(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
