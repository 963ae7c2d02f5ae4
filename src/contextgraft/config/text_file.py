"""Files of others, opened without blocking; text as editors and spreadsheets save it: UTF-8 or UTF-16."""

import codecs
import errno
import os
import re
import stat
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from contextgraft.errors import raise_read_error

MAX_BYTES = 1 << 30  # of a text file
MOST_NAMES = 5  # of files in an error
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# of UTF-16 without a byte order mark, by the zero byte of a first character that ASCII has
ZERO_BYTES = {0: "utf-16-be", 1: "utf-16-le"}
LINE_END = re.compile(r"\r\n|\n|\r")


def open_regular(path: Path, *, pipes: bool = False) -> BinaryIO:
    """Open a file for reading; a device, a folder or a file of the kernel raises OSError at once.

    So does a pipe, unless `pipes`: one to which no other process writes is empty then.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    facts = os.fstat(handle)
    # files of the kernel: some have no end, or block
    kernel = {Path(folder).stat().st_dev for folder in ("/proc", "/sys") if os.path.ismount(folder)}
    is_pipe = pipes and stat.S_ISFIFO(facts.st_mode)
    if not (stat.S_ISREG(facts.st_mode) or is_pipe) or facts.st_dev in kernel:
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file")
    os.set_blocking(handle, True)
    return os.fdopen(handle, "rb")


def check_regular(path: Path) -> None:
    """Raise OSError for what `open_regular` does not open, before a library opens it and blocks."""
    open_regular(path).close()


def read_text_file(path: Path) -> str:
    """The text without its byte order mark; UnicodeDecodeError for other content.

    OSError says that there is no such file; ReadError, that it cannot be read now.
    """
    try:
        with open_regular(path, pipes=True) as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise_read_error(error, path)
        raise
    if len(raw) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"more than {MAX_BYTES:,} bytes")
    return raw.decode("utf-16" if raw.startswith(UTF_16) else ZERO_BYTES.get(raw[:2].find(0), "utf-8-sig"))


def path_exists(text: str) -> bool:
    """Whether a text names a file or folder; text that cannot be a path does not."""
    try:
        return Path(text).exists()
    except (OSError, ValueError) as error:  # too long, or with a zero byte
        raise_read_error(error, text)
        return False


def is_file(path: Path | str) -> bool:
    """Whether a text names a file; text that cannot be a path does not."""
    return path_exists(str(path)) and Path(path).is_file()


def list_below(folder: Path, pattern: str = "*", *, hidden: bool = False) -> list[Path]:
    """All files and folders below a folder whose names fit a pattern, sorted; hidden ones only if asked for.

    A folder that this user may not read raises ReadError: `Path.rglob` would leave it out without a word.
    """

    def fail(error: OSError) -> None:
        raise_read_error(error, error.filename or folder)

    found = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if hidden or not name.startswith(".")]
        found += [
            Path(parent, name)
            for name in (*folders, *names)
            if (hidden or not name.startswith(".")) and fnmatchcase(name, pattern)
        ]
    return sorted(found)


def split_lines(text: str) -> list[str]:
    """Lines by LF, CRLF or CR only: other separators, such as U+2028, are text. No empty line at the end."""
    lines = LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


def not_readable(error: OSError | UnicodeError, path: Path) -> str:
    """Why a file cannot be read, in a few words."""
    if isinstance(error, OSError) and path.is_dir():
        return "a folder"
    return str(getattr(error, "strerror", None) or error)


def beside(path: Path) -> str | None:
    """A remedy: the first files of the same ending in the folder of a path; None if there are none."""
    if not path.suffix or not path.parent.is_dir():
        return None
    names = sorted(file.name for file in path.parent.glob(f"*{path.suffix}") if file != path)
    return f"in its folder: {', '.join(names[:MOST_NAMES])}" if names else None
