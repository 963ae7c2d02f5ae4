"""Raw bytes of tensors in safetensors files, block by block, without torch."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.errors import CheckpointError, raise_read_error


class Tensors(Protocol):
    """A source of tensors: a model folder, or one file."""

    @property
    def path(self) -> Path:
        """The folder that holds the files."""

    def __getitem__(self, name: str) -> TensorInfo:
        """The position, dtype and shape of one tensor."""


def read_into(folder: Tensors, info: TensorInfo, start: int, view: memoryview) -> None:
    """Fill `view` with bytes of a tensor from `start`; a short or unreadable file raises CheckpointError."""
    path = folder.path / info.shard
    done = 0
    try:
        with path.open("rb", buffering=0) as file:
            while done < len(view):
                count = os.preadv(file.fileno(), [view[done:]], info.begin + start + done)
                if count == 0:
                    raise CheckpointError(
                        f"ends inside tensor {info.name!r}", path=path, remedy="fetch the file again"
                    )
                done += count
    except OSError as error:
        raise_read_error(error, path)
        raise CheckpointError("cannot be read", path=path, received=error.strerror) from None


def byte_blocks(folder: Tensors, info: TensorInfo, max_bytes: int) -> Iterator[memoryview]:
    """A tensor's bytes from begin to end; each block is valid until the next one is read."""
    buffer = memoryview(bytearray(min(max_bytes, info.bytes)))
    for start in range(0, info.bytes, max_bytes):
        block = buffer[: min(max_bytes, info.bytes - start)]
        read_into(folder, info, start, block)
        yield block


def expect_bytes(folder: Tensors, info: TensorInfo, start: int, stop: int) -> None:
    """Ask the kernel to read bytes [start, stop) of a tensor ahead, while something else is computed."""
    with suppress(OSError):  # the read itself will report it
        handle = os.open(folder.path / info.shard, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, info.begin + start, stop - start, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(handle)
