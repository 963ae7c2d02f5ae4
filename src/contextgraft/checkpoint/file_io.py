"""Copying bytes between files, by the kernel where it supports that, and reading ahead."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Thread

CHUNK = 1 << 24  # bytes
READ_AHEAD = 1 << 32  # bytes


def read_ahead(*folders: Path) -> None:
    """Read weights into the page cache while libraries load, by the names of files; errors come up later."""

    def read() -> None:
        with suppress(OSError):
            files = [file for folder in folders for file in folder.glob("*.safetensors")]
            expect_files(sorted(files, key=lambda file: (file.name, file)), READ_AHEAD)

    Thread(target=read, daemon=True).start()


def expect_files(paths: Iterable[Path], most: int) -> None:
    """Ask the kernel to read files ahead, up to `most` bytes in all."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            size = min(os.fstat(handle).st_size, most)
            os.posix_fadvise(handle, 0, size, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(handle)
        most -= size
        if most <= 0:
            return


def copy_range(source: int, destination: int, begin: int, end: int, to: int | None = None) -> None:
    """Copy bytes [begin, end) of one open file to another, to the offset `to`, by default the same."""
    shift = 0 if to is None else to - begin
    while begin < end:
        try:
            done = os.copy_file_range(source, destination, end - begin, begin, begin + shift)
        except OSError:  # unsupported here; a real error is raised again below
            done = 0
        if done == 0:
            data = os.pread(source, min(CHUNK, end - begin), begin)
            if not data:
                raise EOFError(f"file ends at byte {begin}, before {end}")
            write_all(destination, memoryview(data), begin + shift)
            done = len(data)
        begin += done


def write_all(handle: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`."""
    done = 0
    while done < data.nbytes:
        done += os.pwrite(handle, data[done:], offset + done)
