"""One tensor plus its deltas by PyTorch: computed in float32, rounded once, measured and hashed in one pass.

For every kind of delta, dtype, rounding and device.
"""

from collections.abc import Callable, Sequence

import torch

from contextgraft.adapter.compute.numeric import norm_squared
from contextgraft.adapter.compute.tensor_pool import Buffers
from contextgraft.adapter.compute.tiles import MERGE_TILE, tile_rows
from contextgraft.adapter.lora.deltas import TensorDelta
from contextgraft.adapter.merge.kernels.evidence import Measures, TensorEvidence
from contextgraft.adapter.merge.rounding import Rounding
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.checkpoint.reader import DTYPES, read_bytes
from contextgraft.checkpoint.tensor_bytes import expect_bytes


def merge_tensor(
    target: ModelFolder,
    name: str,
    deltas: Sequence[TensorDelta],
    *,
    rounding: Rounding,
    buffers: Buffers,
    write: Callable[[int, memoryview], object],
    rows: int | None = None,
) -> TensorEvidence:
    """Add `deltas` to a tensor of `target`, tile by tile; `write` is called with an offset and bytes.

    The result has `rows` rows, by default the tensor's; those beyond the tensor's own are zero before.
    A result that is not finite raises CheckpointError.
    """
    info = target[name]
    dtype = DTYPES[info.dtype]
    own_rows, columns = info.matrix
    row_bytes = columns * dtype.itemsize
    measures = Measures()
    expect_bytes(target, info, 0, info.bytes)
    step, rows = tile_rows(columns, MERGE_TILE), own_rows if rows in (None, info.rows) else rows
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        count = (stop - start) * columns
        offset, end = start * row_bytes, min(stop, own_rows) * row_bytes
        old = buffers.floats("old32", count).zero_() if stop > own_rows else buffers.floats("old32", count)
        if offset < end:
            old_raw = read_bytes(target, info, offset, end, buffers.bytes("old", end - offset))
            measures.before.update(old_raw.numpy().data)
            old[: (end - offset) // dtype.itemsize].copy_(old_raw.view(dtype))
        old = old.view(-1, columns)
        delta = _sum(deltas, old, start, stop, buffers)
        new = torch.add(old, delta, out=buffers.floats("new32", count).view(-1, columns))
        new_raw = buffers.bytes("new", count * dtype.itemsize)
        stored = rounding(new, new_raw.view(dtype).view(-1, columns))
        measures.after.update(new_raw.numpy().data)
        write(offset, new_raw.numpy().data)
        applied = new.copy_(stored).sub_(old)
        product = float(torch.dot(applied.reshape(-1), delta.reshape(-1)))
        measures.add(norm_squared(delta), norm_squared(applied), product)
    return measures.evidence(target, name)


def _sum(
    deltas: Sequence[TensorDelta], old: torch.Tensor, start: int, stop: int, buffers: Buffers
) -> torch.Tensor:
    """Rows [start, stop) of the sum of all deltas; zero without any."""
    if not deltas:
        return torch.zeros_like(old)
    first, *others = deltas
    total = first.tile(old, start, stop, buffers.floats("delta", old.numel()).view_as(old))
    for delta_of_adapter in others:
        total = total.add_(
            delta_of_adapter.tile(old, start, stop, buffers.floats("more", old.numel()).view_as(old))
        )
    return total
