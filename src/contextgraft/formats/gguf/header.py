"""The header of a GGUF file, read instead of mapped into memory."""

import os
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt

from contextgraft.errors import InputChanged

MOST_BYTES = 2**30  # of a header; vocabularies of a million tokens take less than 100 MB
READ_AT_ONCE = 2**20  # bytes


class GGUFHeader(gguf.GGUFReader):  # type: ignore[misc]  # the package has no types
    """Fields and tensors of a GGUF file.

    The gguf package maps the file into memory, and access to a mapping ends the process (SIGBUS) when the
    file was cut meanwhile or its disk fails. Here everything but the data of tensors is read; their data
    stay a part of the mapping that nothing may access: only their dtype and shape can be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = b""  # of the file, from its beginning
        with path.open("rb") as file:
            self._handle = file.fileno()
            super().__init__(path)

    def _get(
        self, offset: int, dtype: npt.DTypeLike, count: int = 1,
        override_order: Literal["I", "S", "<"] | None = None,
    ) -> npt.NDArray[Any]:  # fmt: skip
        """`count` numbers at `offset`, fewer at the end of the file."""
        end = int(offset) + np.dtype(dtype).itemsize * int(count)
        mapped = hasattr(self, "data_offset")  # the header is complete
        content = self.data if mapped else self._read_until(min(end, len(self.data)))
        part: npt.NDArray[Any] = content[offset:end].view(dtype)[: int(count)]
        return part.view(part.dtype.newbyteorder(override_order or self.byte_order))

    def _read_until(self, end: int) -> npt.NDArray[np.uint8]:
        if end > MOST_BYTES:
            raise ValueError(f"the header has more than {MOST_BYTES} bytes")
        while len(self._content) < end:
            size = max(end - len(self._content), len(self._content), READ_AT_ONCE)
            data = os.pread(self._handle, size, len(self._content))
            if not data:
                raise InputChanged(self._path)
            self._content += data
        return np.frombuffer(self._content, np.uint8)
