"""Files of a folder that others made, before they are copied: no links that leave it, no pipes, no devices.

A link to a private file would carry it into a result that is published. Allowed are links inside the folder,
and links into a store whose names are digests: the blobs of the hub's cache next to the snapshot, and the
cache of DVC.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from contextgraft.checkpoint.file_io import copy_range
from contextgraft.config.text_file import open_regular
from contextgraft.errors import CheckpointError, raise_read_error

SNAPSHOT = re.compile(r"(?P<repository>(?P<cache>.*)/(?:models|datasets|spaces)--[^/]+)/snapshots/.+")
SHARED_BLOB = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")  # below `blobs` of the whole cache
DVC_OBJECT = re.compile(r".*/files/md5/[0-9a-f]{2}/[0-9a-f]{30}")
KINDS = {
    stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


def check_own_files(folder: Path) -> None:
    """Raise CheckpointError unless every visible entry of a folder is a file or folder of its own.

    Hidden files are not checked: no command copies them.
    """
    for path in _entries(folder):
        _check(folder, path)


def check_own_file(folder: Path, name: str) -> None:
    """As `check_own_files`, for one file."""
    _check(folder, folder / name)


def check_plain_files(folder: Path) -> None:
    """Raise CheckpointError for a visible entry on which a reader may block: a pipe, a device, the kernel's.

    For folders that are read by other libraries, and not copied: links elsewhere are allowed.
    """
    for path in _entries(folder):
        if path.is_dir() or not path.exists():
            continue
        try:
            open_regular(path).close()
        except OSError as error:
            raise_read_error(error, path)
            raise CheckpointError(
                "cannot be read", path=path, received=error.strerror, remedy="remove it"
            ) from None


def copy_own_file(folder: Path, name: str, destination: Path) -> None:
    """Copy a file of a folder, with the mode of a new file; CheckpointError if it is not the folder's own."""
    source = _check(folder, folder / name)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with open_regular(source) as file, destination.open("wb") as copy:
        try:
            copy_range(file.fileno(), copy.fileno(), 0, os.fstat(file.fileno()).st_size)
        except EOFError as error:
            raise CheckpointError("changed while it was copied", path=folder / name, received=error) from None


def _entries(folder: Path) -> Iterator[Path]:
    """Every visible entry; links to folders are entries, and are not followed."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise_read_error(error, folder)
        raise CheckpointError("cannot be read", path=folder, received=error.strerror) from None
    for path in entries:
        if path.name.startswith("."):
            continue
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _entries(path)


def _check(folder: Path, path: Path) -> Path:
    """The path without links; CheckpointError if it is not the folder's own, or neither file nor folder."""
    try:
        real = path.resolve(strict=True)
        mode = real.lstat().st_mode
    except (OSError, RuntimeError) as error:
        raise_read_error(error, path)
        if not path.is_symlink():
            raise
        raise CheckpointError("is a link to nothing", path=path, remedy="remove it") from None
    if not _is_inside(folder.resolve(), real):
        raise CheckpointError(
            "is a link to a file outside its folder, which is not copied", path=path,
            received=path.readlink() if path.is_symlink() else real,
            remedy="if you trust the folder, copy it with `cp -rL` and pass the copy",
        )  # fmt: skip
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise CheckpointError(
            "is not a file", path=path, received=KINDS.get(stat.S_IFMT(mode), "another kind"),
            remedy="remove it",
        )  # fmt: skip
    return real


def _is_inside(folder: Path, real: Path) -> bool:
    if real.is_relative_to(folder):
        return True
    if DVC_OBJECT.fullmatch(real.as_posix()):
        return True
    snapshot = SNAPSHOT.fullmatch(folder.as_posix())
    if snapshot is None:
        return False
    shared = Path(snapshot["cache"], "blobs")
    return real.parent == Path(snapshot["repository"], "blobs") or (
        real.is_relative_to(shared) and SHARED_BLOB.fullmatch(real.relative_to(shared).as_posix()) is not None
    )
