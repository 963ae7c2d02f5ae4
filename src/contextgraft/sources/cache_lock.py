"""The marker file of an entry of the cache: it says that contextgraft made the folder, and is its lock."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from contextgraft.errors import OutputError, file_system_remedy, raise_read_error

LOCK = ".contextgraft-cache"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
WITH_LOCKS = "set CONTEXTGRAFT_CACHE to a folder on a file system with locks"
OTHER_DISK = ", or set CONTEXTGRAFT_CACHE to a folder on another disk"


def is_ours(entry: Path) -> bool:
    """Whether contextgraft made a folder of the cache; a link to a folder is never its own."""
    return entry.is_dir() and not entry.is_symlink() and (entry / LOCK).is_file()


@contextmanager
def lock_entry(entry: Path, wait: Callable[[], object]) -> Iterator[None]:
    """Make an entry with its marker, and hold its lock; `wait` is called before another run is waited for."""
    try:
        lock = _acquire(entry, wait)
    except OSError as error:
        remedy = file_system_remedy(error, "free disk space") + OTHER_DISK
        raise OutputError(
            "cannot be written or locked", path=entry, received=error.strerror,
            remedy=WITH_LOCKS if error.errno in NO_LOCKS else remedy,
        ) from None  # fmt: skip
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def shared_entry(entry: Path) -> Iterator[bool]:
    """Keep an entry from being removed while it is read; False if it does not exist, or a run changes it.

    On a file system without locks, nothing is kept.
    """
    try:
        lock = os.open(entry / LOCK, os.O_RDONLY)
    except OSError as error:
        raise_read_error(error, entry / LOCK)
        yield False
        return
    try:
        yield _is_shared(lock) and _is_current(lock, entry)
    finally:
        os.close(lock)


def _is_shared(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_current(lock: int, entry: Path) -> bool:
    """Whether an open marker is that of the entry: the entry was not removed, nor made anew."""
    try:
        return os.path.samestat(os.fstat(lock), (entry / LOCK).stat())
    except OSError:
        return False


@contextmanager
def try_lock(entry: Path) -> Iterator[bool]:
    """Hold the lock of an entry that is to be removed; False if another run holds it.

    At the end the marker is removed, and the folder if it is empty then. A folder that lost files, but not
    all of them, keeps its marker.
    """
    try:
        lock = os.open(entry / LOCK, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = _is_current(lock, entry)
    except OSError:
        free = False
    if not free:
        os.close(lock)
        yield False
        return
    try:
        yield True
        (entry / LOCK).unlink()
        with suppress(OSError):
            entry.rmdir()
    finally:
        os.close(lock)


def _acquire(entry: Path, wait: Callable[[], object]) -> int:
    """The open, locked marker; it is opened anew if a run removed the entry meanwhile."""
    while True:
        entry.mkdir(parents=True, exist_ok=True)
        try:
            if any(path.name != LOCK for path in entry.iterdir()) and not (entry / LOCK).exists():
                raise OutputError("has files that contextgraft did not write", path=entry, remedy="remove it")
            lock = os.open(entry / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the entry was removed since
            continue
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wait()
                fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_current(lock, entry):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
