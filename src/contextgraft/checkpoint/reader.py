"""Reading tensors by rows, so that memory does not depend on the tensor's size, or whole when asked for.

Files are read, not mapped into memory: where a mapped file was cut, or its disk fails, the process is killed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import EllipsisType

import torch

from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.checkpoint.tensor_bytes import Tensors, read_into
from contextgraft.errors import CheckpointError

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8,
    "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
QUANTISED = {
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64,
}  # fmt: skip
STORED = DTYPES | QUANTISED


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


def torch_dtype(info: TensorInfo) -> torch.dtype:
    """The dtype in which a tensor is stored; CheckpointError for one that torch lacks."""
    if info.dtype not in STORED:
        raise CheckpointError(f"tensor {info.name!r} has a dtype that torch lacks", received=info.dtype)
    return STORED[info.dtype]


@dataclass(frozen=True)
class LazyTensor:
    """One tensor of a model; `tensor[...]` returns it whole, as of a safetensors file that is open.

    transformers loads a mapping of such objects as it loads the tensors of files.
    """

    info: TensorInfo
    read: Callable[[str], torch.Tensor]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the tensor is stored."""
        return torch_dtype(self.info)

    def is_floating_point(self) -> bool:
        """Whether the tensor holds floating-point numbers."""
        return self.dtype.is_floating_point

    def __getitem__(self, _: EllipsisType) -> torch.Tensor:
        """The whole tensor, in memory of its own."""
        return self.read(self.info.name)


def lazy_tensors(
    tensors: Mapping[str, TensorInfo], read: Callable[[str], torch.Tensor]
) -> dict[str, LazyTensor]:
    """Tensors by name, in the order of their files."""
    names = sorted(tensors, key=lambda name: (tensors[name].shard, name))
    return {name: LazyTensor(tensors[name], read) for name in names}


def stored_tensors(folder: ModelFolder) -> dict[str, LazyTensor]:
    """The tensors of a folder, each read from its file when it is asked for."""

    def read(name: str) -> torch.Tensor:
        info = folder[name]
        return read_bytes(folder, info, 0, info.bytes).view(torch_dtype(info)).reshape(info.shape)

    return lazy_tensors(folder.tensors, read)
