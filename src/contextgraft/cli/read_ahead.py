"""Reading weights into the page cache while libraries load."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread

from contextgraft.checkpoint.file_io import expect_files

MOST = 1 << 32  # bytes


def read_ahead(folders: Sequence[Path]) -> None:
    """Ask the kernel for the weights of models, by the names of files; errors are reported later."""

    def read() -> None:
        with suppress(OSError):
            files = [file for folder in folders for file in folder.glob("*.safetensors")]
            expect_files(sorted(files, key=lambda file: (file.name, file)), MOST)

    Thread(target=read, daemon=True).start()
