"""Reading tensors by rows, so that memory does not depend on the tensor's size."""

import torch

from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.checkpoint.tensor_bytes import Tensors, read_into
from contextgraft.errors import CheckpointError

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8,
    "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read_rows(folder: Tensors, name: str, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop) of a tensor in its stored dtype, in memory of their own.

    A scalar is read whole as one row. A file shorter than its header says raises CheckpointError.
    """
    info = folder[name]
    if info.dtype not in DTYPES:
        raise CheckpointError(
            f"tensor {name!r} has a dtype that cannot be computed with",
            path=folder.path / info.shard,
            expected=", ".join(DTYPES),
            received=info.dtype,
        )
    if not 0 <= start <= stop <= info.rows:
        raise IndexError(f"rows {start}:{stop} of {name}, which has {info.rows}")
    row_bytes = info.bytes // max(info.rows, 1)
    raw = read_bytes(folder, info, start * row_bytes, stop * row_bytes)
    return raw.view(DTYPES[info.dtype]).reshape((stop - start, *info.shape[1:]) if info.shape else ())


def read_tensor(folder: Tensors, name: str) -> torch.Tensor:
    """A complete tensor; for small ones."""
    return read_rows(folder, name, 0, folder[name].rows)


def read_bytes(
    folder: Tensors, info: TensorInfo, start: int, stop: int, buffer: torch.Tensor | None = None
) -> torch.Tensor:
    """Bytes [start, stop) of a tensor's data as uint8; a short or unreadable file raises CheckpointError.

    They go into the head of `buffer` if there is one, else into memory of their own.
    """
    raw = torch.empty(stop - start, dtype=torch.uint8) if buffer is None else buffer[: stop - start]
    read_into(folder, info, start, raw.numpy().data)
    return raw
