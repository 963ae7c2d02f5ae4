"""Whether a file is a complete GGUF file."""

from pathlib import Path

from contextgraft.errors import library_errors
from contextgraft.formats.gguf.header import GGUFHeader


def check_gguf(path: Path) -> None:
    """Raise CheckpointError for a file that is not GGUF, or was cut; no tensor is read."""
    with library_errors("is not a usable GGUF file", path):
        GGUFHeader(path)
