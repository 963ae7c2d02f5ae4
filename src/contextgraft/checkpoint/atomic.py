"""Outputs appear complete or not at all: written next to their final path and renamed onto it at the end."""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.replaceable import OutputExists, check_apart, check_model_output
from contextgraft.errors import (
    ContextgraftError,
    OutputBusy,
    OutputError,
    file_system_error,
    file_system_remedy,
)

RESUME_LOG = ".journal"  # folder of the resume log, inside the work directory of an unfinished job
PARTIAL = ".partial"
WRITE_ERRNOS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def publish(
    out: Path,
    *,
    replace: bool = False,
    check: Callable[[Path], None] = check_model_output,
    inputs: Iterable[Path] = (),
) -> Iterator[Path]:
    """A work directory `.<name>.partial` next to `out`, renamed onto `out` when the block succeeds.

    It stays when the block fails or is killed, so that the same command can resume; an empty one is removed.
    A second run raises OutputBusy; an `out` that already holds files raises OutputError, unless `replace` and
    `check` accepts what it holds, and one that is, contains or is inside one of `inputs` always does.
    """
    check_apart(out, inputs)
    with work_directory(out) as work:
        check_output(out, replace=replace, check=check)
        yield work
        move_into_place(work, out)


@contextmanager
def work_directory(out: Path) -> Iterator[Path]:
    """The locked work directory of `out`; it is removed only if it is left empty."""
    if not out.absolute().name:
        raise OutputError("cannot be an output folder", path=out, remedy="name a folder in it")
    work = out.absolute().with_name(f".{out.absolute().name}{PARTIAL}")
    with _write_errors(out):
        work.mkdir(parents=True, exist_ok=True)
        lock = _lock(work, out)
        try:
            _reattach_log(work)
            yield work
            shutil.rmtree(_detached_log(work), ignore_errors=True)
        finally:
            with suppress(OSError):
                work.rmdir()
            os.close(lock)


def remove_leftovers(out: Path) -> None:
    """Remove what a run that was killed after it had published `out` left next to it.

    Nothing is removed while another run is at work, or of a job that is not finished.
    """
    with suppress(OutputError), work_directory(out) as work:
        if all(path.name == RESUME_LOG for path in work.iterdir()):
            shutil.rmtree(work / RESUME_LOG, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove whatever is at a path, if anything: a file, a folder with its content, or a link itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def detach_log(work: Path) -> None:
    """Move the resume log out of a finished work directory, which is about to be renamed as it is.

    `work_directory` removes the log after the rename; the rerun of a run killed before that moves it back.
    """
    remove(_detached_log(work))
    (work / RESUME_LOG).rename(_detached_log(work))


def _reattach_log(work: Path) -> None:
    detached = _detached_log(work)
    if detached.exists() and any(work.iterdir()) and not (work / RESUME_LOG).exists():
        detached.rename(work / RESUME_LOG)
    with suppress(OSError):
        remove(detached)


def _detached_log(work: Path) -> Path:
    return work.with_suffix(RESUME_LOG)


def check_output(
    out: Path,
    *,
    replace: bool = False,
    check: Callable[[Path], None] = check_model_output,
) -> None:
    """Raise OutputError if `out` is not a directory, or a directory with files that may not be replaced."""
    folder = out.is_dir() and not out.is_symlink()
    occupied = any(not path.is_dir() for path in out.rglob("*")) if folder else os.path.lexists(out)
    if not occupied:
        return
    if not (replace and folder):
        raise OutputExists(out, replaceable=folder and _may_be_replaced(out, check))
    check(out)


def _may_be_replaced(out: Path, check: Callable[[Path], None]) -> bool:
    try:
        check(out)
    except OutputError:
        return False
    return True


def move_into_place(work: Path, out: Path) -> None:
    """Rename a finished directory onto `out`, replacing what is there, and make the rename durable."""
    out = out.absolute()
    sync_tree(work)
    out.parent.mkdir(parents=True, exist_ok=True)
    old = _move_away(out)
    work.rename(out)
    _sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_output(out: Path) -> None:
    """Remove an output folder that the same command may replace; it disappears as a whole."""
    if out.is_dir():
        check_output(out, replace=True)
        shutil.rmtree(_move_away(out.absolute()), ignore_errors=True)


def _move_away(out: Path) -> Path:
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    return old


def check_file_output(path: Path) -> None:
    """Raise OutputError if a file cannot be written there, whose folders are made where they are missing."""
    if path.is_dir():
        raise OutputError("is a folder", path=path, remedy="name a file")
    check_folder_output(path.absolute().parent)


def check_folder_output(folder: Path) -> None:
    """Raise OutputError if no file can be written in a folder, which is made where it is missing."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise OutputError("is not a folder", path=existing, remedy="name another output")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError("cannot be written", path=existing, remedy="name another output")


@contextmanager
def publish_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path next to `path`, renamed onto it when the block succeeds, removed when it fails.

    Not `durable`: complete after a kill, but not after a loss of power, unless `sync_tree` follows.
    """
    path = path.absolute()
    if not path.name:
        raise OutputError("is a folder", path=path, remedy="name a file")
    temporary = path.with_name(f".{path.name}{PARTIAL}")
    with _write_errors(path):
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
        temporary.write_text(json_text(obj), encoding="utf-8")


def json_text(obj: Any) -> str:
    """JSON with sorted keys, two spaces and a final newline, as all files have it."""
    return json.dumps(obj, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def sync_tree(folder: Path) -> None:
    """Flush every file and directory in `folder`, and itself, to the disk."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _lock(work: Path, out: Path) -> int:
    """Lock the work directory itself; the lock ends with the process."""
    busy = OutputBusy(
        "another run is writing it", path=out, remedy="wait for that run or name another output"
    )
    try:
        lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # the other run finished between our mkdir and here
        raise busy from None
    try:
        _flock(lock, work, out)
        if not os.path.samestat(os.fstat(lock), work.stat()):  # another run renamed it meanwhile
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError):
        os.close(lock)
        raise busy from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _flock(handle: int, work: Path, out: Path) -> None:
    """Lock an open folder; BlockingIOError if another run holds the lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        with suppress(OSError):
            work.rmdir()  # if it is empty
        raise OutputError(
            "cannot be locked",
            path=out,
            received=error.strerror,
            remedy="name an output on a file system with locks",
        ) from None


@contextmanager
def _write_errors(out: Path) -> Iterator[None]:
    """Report an error of the file system as an OutputError about the output."""
    try:
        yield
    except ContextgraftError:
        raise
    except Exception as caught:
        error = file_system_error(caught)
        if error is None or not (isinstance(caught, OSError) or error.errno in FULL_ERRNOS):
            raise
        name, folder = error.filename, out.absolute().parent
        gone = isinstance(error, FileNotFoundError) and isinstance(name, str)
        if error.errno not in WRITE_ERRNOS and not (gone and Path(name).is_relative_to(folder)):
            raise
        raise OutputError(
            "cannot be written",
            path=_destination(out),
            received=error.strerror,
            remedy=file_system_remedy(error, "free disk space or name another output"),
        ) from None


def _destination(path: Path) -> Path:
    """The output that a path inside a work directory belongs to; any other path itself."""
    for folder in path.parents:
        if folder.name.startswith(".") and folder.suffix == PARTIAL:
            return folder.with_name(folder.stem[1:])
    return path


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
