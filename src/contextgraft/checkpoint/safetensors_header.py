"""The header of a safetensors file: every value is checked against the file itself."""

import math
import os
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.strict_json import NotJson, parse_json
from contextgraft.config.text_file import open_regular
from contextgraft.errors import CheckpointError, PickleRefused, raise_read_error

MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
MAX_DIMENSIONS = 64
MAX_NAME = 1000  # characters
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"(dp", b"}q")
CONVERT = (
    "convert it with `contextgraft fetch FOLDER --out DIR --convert-pickles`, which runs no code of it; or, "
    "where you trust it, load it and `save_pretrained(..., safe_serialization=True)`; pass that folder"
)
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip

PACKED_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}  # several elements share a byte


@dataclass(frozen=True)
class TensorInfo:
    """Position of one tensor: `shard` is a file in the folder, `begin` and `end` absolute offsets in it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: str
    begin: int
    end: int

    @property
    def bytes(self) -> int:
        """Size of the data in bytes."""
        return self.end - self.begin

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """Length of the first dimension; a scalar is one row."""
        return self.shape[0] if self.shape else 1

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns as a matrix: all dimensions but the last of three or more are rows."""
        rows = math.prod(self.shape[:-1]) if len(self.shape) > 2 else self.rows
        return rows, self.numel // max(rows, 1)


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file: its folder and name, its tensors in the order of their data, that data's offset."""

    path: Path
    name: str
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_begin: int

    def __getitem__(self, name: str) -> TensorInfo:
        """Offsets, dtype and shape of a tensor; an unknown name raises CheckpointError."""
        if name not in self.tensors:
            raise CheckpointError(f"has no tensor {name!r}", path=self.path)
        return self.tensors[name]

    def without(self, names: Container[str]) -> "TensorFile":
        """The file as if it had none of these tensors."""
        return replace(self, tensors={name: info for name, info in self.tensors.items() if name not in names})


def open_tensors(path: Path) -> TensorFile:
    """Read and check the header of one safetensors file; no tensor is read.

    Pickles under any name raise PickleRefused; every other defect raises CheckpointError.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(9)
            length = int.from_bytes(start[:8], "little")
            fits = len(start) == 9 and length <= min(MAX_HEADER, size - 8)
            if start.startswith(PICKLE_STARTS) and not (fits and start.endswith(b"{")):
                raise PickleRefused(
                    "is a pickle, not safetensors, and is never loaded", path=path, remedy=CONVERT
                )
            if not fits:
                raise _malformed(path, f"a header within the file's {size} bytes", f"a length of {length}")
            file.seek(8)
            raw = file.read(length)
    except OSError as error:
        raise_read_error(error, path)
        raise CheckpointError("cannot be read", path=path, received=error.strerror) from None
    return _parse(path, raw, size)


def _parse(path: Path, raw: bytes, size: int) -> TensorFile:
    try:
        header = parse_json(raw, unique=True)
    except NotJson as error:
        raise _malformed(path, "a JSON header with every name once", str(error)) from None
    if not isinstance(header, dict):
        raise _malformed(path, "a JSON object as header", type(header).__name__)
    metadata = header.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _malformed(path, "__metadata__ of strings", "other values")
    begin = 8 + len(raw)
    infos = sorted(
        (_info(path, begin, name, entry) for name, entry in header.items()), key=lambda i: (i.begin, i.end)
    )
    _check_tiling(path, infos, begin, size)
    return TensorFile(path.parent, path.name, {info.name: info for info in infos}, metadata, begin)


def _info(path: Path, data_begin: int, name: str, entry: Any) -> TensorInfo:
    if len(name) > MAX_NAME:
        raise _malformed(path, f"names of at most {MAX_NAME} characters", f"one of {len(name)}")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(path, f"dtype, shape and data_offsets for {name!r}", f"{entry!r}"[:80])
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in (*ITEM_BYTES, *PACKED_BITS):
        raise _malformed(path, f"a known dtype for {name!r}", f"{dtype!r}"[:80])
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2 or len(shape) > MAX_DIMENSIONS:
        raise _malformed(
            path,
            f"non-negative whole numbers as shape and offsets of {name!r}",
            f"{shape!r}, {offsets!r}"[:80],
        )
    bits = PACKED_BITS.get(dtype) or 8 * ITEM_BYTES[dtype]
    if math.prod(max(size, 1) for size in shape) * bits >= 2**66:
        raise _malformed(path, f"a shape of {name!r} below 2^63 bytes", f"{shape}"[:80])
    need, odd = divmod(math.prod(shape) * bits, 8)
    if odd:
        raise _malformed(path, f"whole bytes of {name!r}", f"{dtype} {shape}"[:80])
    if offsets[1] - offsets[0] != need:
        raise _malformed(path, f"{need} bytes for {name!r} ({dtype} {shape})"[:300], f"offsets {offsets}")
    return TensorInfo(name, dtype, tuple(shape), path.name, data_begin + offsets[0], data_begin + offsets[1])


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_tiling(path: Path, infos: list[TensorInfo], begin: int, size: int) -> None:
    """Raise CheckpointError unless the tensors cover the file from `begin` without overlap or gap."""
    for info in infos:
        if info.begin != begin:
            flaw = "an overlap" if info.begin < begin else "a gap"
            raise _malformed(path, f"{info.name!r} to begin at byte {begin}", f"{flaw}: byte {info.begin}")
        begin = info.end
    if begin != size:
        flaw = "the file is truncated" if begin > size else "unclaimed bytes follow"
        raise CheckpointError(
            f"does not match its header ({flaw})",
            path=path,
            expected=f"{begin} bytes",
            received=f"{size}",
            remedy="fetch the file again",
        )
    for info in infos:
        if info.rows > size:  # rows of no bytes: iterating over them would take forever
            raise _malformed(path, f"no more rows of {info.name!r} than bytes", f"{info.rows}")


def _malformed(path: Path, expected: str, received: str) -> CheckpointError:
    return CheckpointError(
        "is not a well-formed safetensors file",
        path=path,
        expected=expected,
        received=received,
        remedy="fetch it again",
    )
