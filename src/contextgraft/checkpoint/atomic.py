"""Results appear whole or not at all: written beside their place, renamed onto it when done."""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from contextgraft.errors import OutputBusy, OutputError

JOURNAL = ".journal"  # what an unfinished job has done, inside its work directory
WORK = ".partial"
REFUSALS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip


@contextmanager
def publish(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """A work directory `.<name>.partial` beside `out`, renamed onto `out` when the block ends well.

    It stays when the block fails or is killed, so that the same command can resume; if it is empty it goes.
    A second run raises OutputBusy; an `out` that already holds files raises OutputError unless `replace`.
    """
    with workspace(out) as work:
        refuse_existing(out, replace=replace)
        yield work
        install(work, out)


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """The locked work directory of `out`; it is removed only if it is left empty."""
    if not out.absolute().name:
        raise OutputError("is no place for an output", path=out, remedy="name a folder in it")
    work = out.absolute().with_name(f".{out.absolute().name}{WORK}")
    with _storing(out):
        work.mkdir(parents=True, exist_ok=True)
        lock = _lock(work, out)
        try:
            _take_back(work)
            yield work
            shutil.rmtree(_aside(work), ignore_errors=True)
        finally:
            with suppress(OSError):
                work.rmdir()
            os.close(lock)


def set_aside(work: Path) -> None:
    """Move the journal out of finished work, which is about to be renamed as it is.

    The workspace removes it when the work is in its place; a run killed before that takes it back.
    """
    (work / JOURNAL).rename(_aside(work))


def _take_back(work: Path) -> None:
    aside = _aside(work)
    if aside.exists() and any(work.iterdir()) and not (work / JOURNAL).exists():
        aside.rename(work / JOURNAL)
    shutil.rmtree(aside, ignore_errors=True)


def _aside(work: Path) -> Path:
    return work.with_suffix(JOURNAL)


def refuse_existing(out: Path, *, replace: bool = False) -> None:
    """Raise OutputError if `out` is a directory that holds a file, or anything but a directory."""
    folder = out.is_dir() and not out.is_symlink()
    held = any(not path.is_dir() for path in out.rglob("*")) if folder else os.path.lexists(out)
    if held and not (replace and folder):
        raise OutputError("already exists", path=out, remedy="remove it or name another output")


def install(work: Path, out: Path) -> None:
    """Rename a finished directory onto `out`, whatever stood there, and make the rename durable."""
    out = out.absolute()
    sync_tree(work)
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        out.rename(old)
    work.rename(out)
    _sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def publish_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends well, removed when it fails.

    Not `durable`: whole after a kill, but not after a loss of power, until `sync_tree` has seen it.
    """
    path = path.absolute()
    temporary = path.with_name(f".{path.name}{WORK}")
    with _storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if durable:
                _sync(temporary)
            temporary.replace(path)
            if durable:
                _sync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, obj: Any, *, durable: bool = True) -> None:
    """Write JSON with sorted keys, two spaces and a final newline, atomically."""
    with publish_file(path, durable=durable) as temporary:
        text = json.dumps(obj, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def sync_tree(folder: Path) -> None:
    """Flush every file and directory below `folder` to the disk."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _lock(work: Path, out: Path) -> int:
    """Lock the work directory itself; the lock goes with the process, however that ends."""
    busy = OutputBusy(
        "another run is writing it", path=out, remedy="wait for that run or name another output"
    )
    try:
        lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # the other run finished between our mkdir and here
        raise busy from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(lock), work.stat()):  # it was renamed away while we waited
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError):
        os.close(lock)
        raise busy from None
    except BaseException:
        os.close(lock)
        raise
    return lock


@contextmanager
def _storing(out: Path) -> Iterator[None]:
    """What the disk refuses becomes one line about the output."""
    try:
        yield
    except OSError as error:
        gone = isinstance(error, FileNotFoundError) and _is_beside(out, error.filename)
        if error.errno not in REFUSALS and not gone:
            raise
        raise OutputError(
            "cannot be written",
            path=_destination(out),
            received=error.strerror,
            remedy="make room or name another output",
        ) from None


def _destination(path: Path) -> Path:
    """The output that a path in a work directory is on its way to; any other path is its own."""
    for folder in path.parents:
        if folder.name.startswith(".") and folder.suffix == WORK:
            return folder.with_name(folder.stem[1:])
    return path


def _is_beside(out: Path, path: object) -> bool:
    return isinstance(path, str) and Path(path).is_relative_to(out.absolute().parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
