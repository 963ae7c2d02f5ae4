"""Models and adapters that commands fetched from their sources, kept in one folder on this machine."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from contextgraft.checkpoint.model_folder import SIDECAR, read_json
from contextgraft.errors import ContextgraftError, InputError, OutputError
from contextgraft.formats.hub_source import RECORD, SCHEME
from contextgraft.sources.cache_lock import LOCK, is_ours, lock_entry, try_lock
from contextgraft.sources.fetch import fetch
from contextgraft.sources.fetched import check_fetched
from contextgraft.sources.hub.client import Hub, resolve_repository
from contextgraft.sources.known_adapters import known_adapters
from contextgraft.sources.resolve import is_dataset, locate, on_hub, suggestion

GGUF = ".gguf"
VARIABLE = "CONTEXTGRAFT_CACHE"
KEY = re.compile(r"[0-9a-f]{40}")  # names of the folders in the cache; others are not its own


@dataclass(frozen=True)
class CachedModel:
    """A model or an adapter in the cache."""

    path: Path
    source: str
    bytes: int


def cache_folder() -> Path:
    """The folder of the variable CONTEXTGRAFT_CACHE, else `contextgraft/models` in the user's cache."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "contextgraft" / "models"


def is_source(text: str) -> bool:
    """Whether a text names a model or an adapter that is not simply a folder, or seems to."""
    path = Path(text)
    if path.exists():
        return path.suffix == GGUF and path.is_file()
    return text in known_adapters() or SCHEME.match(text) is not None or suggestion(text) is not None


def local_folder(source: str, hub: Hub) -> Path:
    """The folder of a source: that of a path itself, else one in the cache, fetched if it is not there.

    A source is also the name of a known adapter. Repositories are kept by hub, name and commit, GGUF files by
    path, size and time. Raises the errors of `fetch`, and InputError for data sets.
    """
    if source in known_adapters() and not Path(source).exists():
        source = known_adapters()[source].source
    if is_dataset(source):
        raise InputError("a data set, not a model or an adapter", path=source)
    if on_hub(source):
        repository = resolve_repository(hub, source)
        name = repository.name.rpartition("/")[2]
        identity = (hub.api.endpoint, repository.name, repository.commit)
        return _fetched(f"hf:{repository.name}@{repository.commit}", identity, name, hub)
    path = locate(source)
    if path.suffix == GGUF and path.is_file():
        status = path.stat()
        identity = (str(path.resolve()), str(status.st_size), str(status.st_mtime_ns))
        return _fetched(str(path), identity, path.stem, hub)
    return path


def _fetched(source: str, identity: tuple[str, ...], name: str, hub: Hub) -> Path:
    """The folder of an entry; a damaged one is fetched again, and a fetch by another run is waited for."""
    key = sha256("\0".join(identity).encode()).hexdigest()[:40]
    folder = cache_folder() / key / name
    if folder.exists() and _damage(folder) is None:
        return folder
    with lock_entry(folder.parent, lambda: hub.progress.log(f"{source}: waits for the run that fetches it")):
        damage = _damage(folder) if folder.exists() else None
        if folder.exists() and damage is None:
            return folder
        if damage is not None:
            hub.progress.log(f"{damage}; it is fetched again")
            _discard(folder)
        hub.progress.log(f"{source}: fetched once into {folder}; `contextgraft cache` lists and removes it")
        fetch(source, folder, hub=hub)
    return folder


def _damage(folder: Path) -> OutputError | None:
    try:
        check_fetched(folder)
    except OutputError as error:
        return error
    return None


def cached_models() -> Iterator[CachedModel]:
    """What the cache holds, in the order of the paths; unfinished downloads are included.

    Folders that contextgraft did not make there, and links, are not part of it.
    """
    for entry in _entries():
        for path in sorted(path for path in entry.iterdir() if path.is_dir() and not path.is_symlink()):
            size = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
            yield CachedModel(path, _source(path), size)


def _entries() -> list[Path]:
    return sorted(path for path in cache_folder().glob("*") if KEY.fullmatch(path.name) and is_ours(path))


def _source(path: Path) -> str:
    """The source in the record of an entry."""
    records = [path / record for record in (SIDECAR, RECORD) if (path / record).exists()]
    if not records:
        return "unfinished"
    try:
        return str(read_json(records[-1]).get("source"))
    except ContextgraftError:
        return "unreadable"


def clear_cache() -> tuple[Path, ...]:
    """Remove everything in the cache; returns the folders that stay because a run writes into them."""
    return tuple(entry for entry in _entries() if not _remove(entry))


def _remove(entry: Path) -> bool:
    """Remove one entry with all its files, unless it is in use."""
    with try_lock(entry) as locked:
        if not locked:
            return False
        for path in entry.iterdir():
            if path.name != LOCK:
                _discard(path)
    return True


def _discard(path: Path) -> None:
    """Remove a file, a link, or a folder with its files; links are not followed."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise OutputError("cannot be removed", path=path, received=error.strerror) from None
