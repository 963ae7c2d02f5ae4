"""Models and adapters that commands fetched from their sources, kept in one folder on this machine."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from contextgraft.checkpoint.digest import bytes_digest, file_digest, json_digest
from contextgraft.checkpoint.model_folder import SIDECAR, read_json
from contextgraft.errors import ContextgraftError, InputError, OutputError
from contextgraft.formats.hub_source import RECORD, SCHEME
from contextgraft.sources.cache_lock import LOCK, is_ours, lock_entry, shared_entry, try_lock
from contextgraft.sources.cached_revisions import KEY, forget_revisions, key_of, repository_commit
from contextgraft.sources.fetch import fetch
from contextgraft.sources.fetched import check_fetched, record_path
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.known_adapters import known_adapters
from contextgraft.sources.resolve import is_dataset, locate, on_hub, suggestion

GGUF = ".gguf"
END = 1 << 20  # bytes at each end of a GGUF file that identify it
VARIABLE = "CONTEXTGRAFT_CACHE"
REVISIONS = "revisions"  # folder of what branches and tags named, for use without network


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


@dataclass(frozen=True)
class CacheEntry:
    """Where a source is kept: `folder`, in a folder of its own with the marker."""

    source: str
    folder: Path


def local_folder(source: str, hub: Hub, held: ExitStack | None = None) -> Path:
    """The folder of a source: that of a path itself, else one in the cache, fetched if it is not there.

    A source is also the name of a known adapter. Repositories are kept by hub, name and commit, GGUF files by
    path, size, time and a digest of both ends. Until `held` is closed, no other run removes the folder from
    the cache. Raises the errors of `fetch`, and InputError for data sets.
    """
    entry = _entry(source, hub)
    if isinstance(entry, Path):
        return entry
    with ExitStack() as own:
        return _fetched(entry, hub, own if held is None else held)


def cached_folder(source: str, hub: Hub) -> Path | None:
    """The folder of a repository that is in the cache already; None if it has to be fetched."""
    entry = _entry(source, hub)
    with ExitStack() as held:
        return entry.folder if isinstance(entry, CacheEntry) and _is_whole(entry, held) else None


def _entry(source: str, hub: Hub) -> CacheEntry | Path:
    """Where a source is kept in the cache; a path of its own needs no entry."""
    if source in known_adapters() and not Path(source).exists():
        source = known_adapters()[source].source
    if is_dataset(source):
        raise InputError("a data set, not a model or an adapter", path=source)
    if on_hub(source):
        name, commit = repository_commit(source, hub, cache_folder() / REVISIONS)
        folder = _entry_folder(name.rpartition("/")[2], hub.api.endpoint, name, commit)
        return CacheEntry(f"hf:{name}@{commit}", folder)
    path = locate(source)
    if path.suffix == GGUF and path.is_file():
        status = path.stat()
        size, modified = str(status.st_size), str(status.st_mtime_ns)
        folder = _entry_folder(path.stem, str(path.resolve()), size, modified, _ends(path))
        return CacheEntry(str(path), folder)
    return path


def _ends(path: Path) -> str:
    """A digest of the first and the last bytes of a file, whose size and time may be those of another."""
    with path.open("rb") as file:
        begin = file.read(END)
        file.seek(max(0, path.stat().st_size - END))
        return sha256(begin + file.read(END)).hexdigest()


def _entry_folder(name: str, *identity: str) -> Path:
    return cache_folder() / key_of(*identity) / name


def _fetched(entry: CacheEntry, hub: Hub, held: ExitStack) -> Path:
    """The folder of an entry; a damaged one is fetched again, and a fetch by another run is waited for."""
    source, folder, fetched = entry.source, entry.folder, False
    while not _is_whole(entry, held, checked=fetched):  # another run may remove it after the fetch
        with lock_entry(folder.parent, lambda: hub.progress.log(f"{source}: waits for the run that uses it")):
            damage = _damage(folder) if folder.exists() else None
            if folder.exists() and damage is None:
                continue
            if damage is not None:
                hub.progress.log(f"{damage}; it is fetched again")
                _discard(folder)
            hub.progress.log(
                f"{source}: fetched once into {folder}; `contextgraft cache` lists and removes it"
            )
            fetch(source, folder, hub=hub)
            (folder.parent / LOCK).write_text(_fetch_digest(folder), encoding="ascii")
            fetched = True
    return folder


def _is_whole(entry: CacheEntry, held: ExitStack, *, checked: bool = False) -> bool:
    """Whether an entry is there and (unless it is `checked`) undamaged; `held` keeps it there then."""
    with ExitStack() as shared:
        there = shared.enter_context(shared_entry(entry.folder.parent)) and entry.folder.exists()
        if not there or not (checked or _damage(entry.folder) is None):
            return False
        held.push(shared.pop_all())
        return True


def _damage(folder: Path) -> OutputError | None:
    try:
        check_fetched(folder)
    except OutputError as error:
        return error
    marker = (folder.parent / LOCK).read_bytes()  # empty in entries of older versions
    if marker and marker != _fetch_digest(folder).encode():
        return OutputError("its record or a header of its weights was changed", path=folder)
    return None


def _fetch_digest(folder: Path) -> str:
    """A digest of the record of a fetch and of the headers of its weights, which the entry's marker holds."""
    record, digests = record_path(folder), []
    if record is not None:
        digests.append(file_digest(record))
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            digests.append(bytes_digest(file.fileno(), 0, 8 + length))
    return json_digest(digests)


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
    """Remove everything in the cache; returns the folders that stay because a run uses them."""
    forget_revisions(cache_folder() / REVISIONS)
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
