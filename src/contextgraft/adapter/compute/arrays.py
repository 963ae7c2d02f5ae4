"""Tensors as float32 arrays of numpy: importing PyTorch takes longer than merging a small model."""

from collections.abc import Callable
from typing import Any

import numpy as np

from contextgraft.checkpoint.tensor_bytes import Tensors, read_into

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Raw = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def widen_bfloat16(raw: Raw, out: Floats) -> None:
    """Bfloat16 is the upper half of a float32."""
    bits = out.view(np.uint32)
    np.copyto(bits, raw.view(np.uint16))
    np.left_shift(bits, 16, out=bits)


def _cast_from(dtype: type[np.floating[Any]]) -> Callable[[Raw, Floats], None]:
    return lambda raw, out: np.copyto(out, raw.view(dtype), casting="same_kind")


WIDEN: dict[str, Callable[[Raw, Floats], None]] = {
    "BF16": widen_bfloat16,
    "F16": _cast_from(np.float16),
    "F32": _cast_from(np.float32),
    "F64": _cast_from(np.float64),
}


def read_floats(folder: Tensors, name: str) -> Floats:
    """A complete tensor in float32, in memory of its own; for small ones of a dtype in WIDEN."""
    info = folder[name]
    raw: Raw = np.empty(info.bytes, np.uint8)
    read_into(folder, info, 0, raw.data)
    out: Floats = np.empty(info.numel, np.float32)
    WIDEN[info.dtype](raw, out)
    return out.reshape(info.shape)
