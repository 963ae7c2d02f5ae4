"""One tensor plus its deltas by numpy: computed in float32, rounded to nearest, measured and hashed.

For deltas that do not depend on the tensor; `adapter.merge.kernels.by_torch` computes all others.
"""

from collections.abc import Callable, Sequence

import numpy as np

from contextgraft.adapter.compute.array_numeric import inner
from contextgraft.adapter.compute.arrays import WIDEN, Floats, Raw
from contextgraft.adapter.compute.tensor_pool import Buffers
from contextgraft.adapter.compute.tiles import MERGE_TILE, PRODUCT_ROWS, tile_rows
from contextgraft.adapter.lora.array_deltas import ArrayDelta
from contextgraft.adapter.merge.kernels.evidence import Measures, TensorEvidence
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.checkpoint.safetensors_header import ITEM_BYTES, TensorInfo
from contextgraft.checkpoint.tensor_bytes import expect_bytes, read_into


def _to_bfloat16(values: Floats, rounded: Floats, stored: Raw) -> None:
    """To nearest, ties to even, by the upper half of the bits; `values` are overwritten."""
    bits, result = values.view(np.uint32), rounded.view(np.uint32)
    np.right_shift(bits, 16, out=result)
    np.bitwise_and(result, 1, out=result)
    np.add(result, 0x7FFF, out=result)
    np.add(result, bits, out=result)
    np.right_shift(result, 16, out=bits)
    np.copyto(stored.view(np.uint16).reshape(bits.shape), bits, casting="unsafe")
    np.bitwise_and(result, 0xFFFF0000, out=result)


def _to_float32(values: Floats, rounded: Floats, stored: Raw) -> None:
    np.copyto(rounded, values)
    np.copyto(stored.view(np.float32).reshape(values.shape), values)


# Functions from float32 to a stored dtype: (values, the rounded values in float32, their bytes)
ROUND: dict[str, Callable[[Floats, Floats, Raw], None]] = {"BF16": _to_bfloat16, "F32": _to_float32}


def merge_arrays(
    target: ModelFolder,
    name: str,
    deltas: Sequence[ArrayDelta],
    *,
    buffers: Buffers,
    write: Callable[[int, memoryview], object],
    rows: int | None = None,
) -> TensorEvidence:
    """Add `deltas` to a tensor of `target`, tile by tile; `write` is called with an offset and bytes.

    The result has `rows` rows, by default the tensor's; those beyond the tensor's own are zero before. The
    dtype is one of ROUND. A result that is not finite raises CheckpointError.
    """
    info = target[name]
    own_rows, columns = info.matrix
    row_bytes = columns * ITEM_BYTES[info.dtype]
    measures = Measures()
    expect_bytes(target, info, 0, info.bytes)
    step, rows = tile_rows(columns, MERGE_TILE), own_rows if rows in (None, info.rows) else rows
    height = max(step, PRODUCT_ROWS)
    for first in range(0, rows, height):
        panel = _sum(deltas, first, min(first + height, rows), columns, buffers)
        for start in range(0, len(panel), step):
            delta = panel[start : start + step]
            offset = (first + start) * row_bytes
            old, new, rounded = (buffers.array(key, delta.shape) for key in ("old", "new", "rounded"))
            measures.before.update(_read_old(target, info, offset, old, buffers).data)
            new_raw = buffers.raw_array("new", len(delta) * row_bytes)
            np.add(old, delta, out=new)
            ROUND[info.dtype](new, rounded, new_raw)
            applied = np.subtract(rounded, old, out=new)
            measures.after.update(new_raw.data)
            write(offset, new_raw.data)
            measures.add(inner(delta, delta), inner(applied, applied), inner(applied, delta))
    return measures.evidence(target, name)


def _read_old(target: ModelFolder, info: TensorInfo, offset: int, old: Floats, buffers: Buffers) -> Raw:
    """Fill a tile from `offset` bytes on, with zeros beyond the tensor's end; returns the stored bytes."""
    size = ITEM_BYTES[info.dtype]
    count = max(min(old.size, (info.bytes - offset) // size), 0)
    flat, raw = old.reshape(-1), buffers.raw_array("old", count * size)
    flat[count:] = 0
    read_into(target, info, offset, raw.data)
    WIDEN[info.dtype](raw, flat[:count])
    return raw


def _sum(deltas: Sequence[ArrayDelta], first: int, last: int, columns: int, buffers: Buffers) -> Floats:
    """Rows [first, last) of the sum of all deltas; zero without any."""
    total = buffers.array("delta", (last - first, columns))
    if not deltas:
        total.fill(0)
        return total
    deltas[0].tile(first, last, total)
    for delta_of_adapter in deltas[1:]:
        more = buffers.array("more", total.shape)
        np.add(total, delta_of_adapter.tile(first, last, more), out=total)
    return total
