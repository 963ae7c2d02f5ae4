"""Models and adapters that commands fetched from their sources, kept in one folder on this machine."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from contextgraft.checkpoint.model_folder import SIDECAR, read_json
from contextgraft.errors import InputError
from contextgraft.formats.hub_source import RECORD, SCHEME
from contextgraft.sources.fetch import fetch
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

    A source is also the name of a known adapter. Repositories are kept by commit, GGUF files by path, size
    and time. Raises the errors of `fetch`, and InputError for data sets.
    """
    if source in known_adapters() and not Path(source).exists():
        source = known_adapters()[source].source
    if is_dataset(source):
        raise InputError("a data set, not a model or an adapter", path=source)
    if on_hub(source):
        repository = resolve_repository(hub, source)
        name = repository.name.rpartition("/")[2]
        return _fetched(f"hf:{repository.name}@{repository.commit}", repository.commit, name, hub)
    path = locate(source)
    if path.suffix == GGUF and path.is_file():
        status = path.stat()
        key = sha256(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()
        return _fetched(str(path), key[:40], path.stem, hub)
    return path


def _fetched(source: str, key: str, name: str, hub: Hub) -> Path:
    folder = cache_folder() / key / name
    if not any((folder / record).exists() for record in (SIDECAR, RECORD)):
        hub.progress.log(f"{source}: fetched once into {folder}; `contextgraft cache` lists and removes it")
        fetch(source, folder, hub=hub)
    return folder


def cached_models() -> Iterator[CachedModel]:
    """What the cache holds, in the order of the paths; unfinished downloads are included."""
    entries = (path for path in cache_folder().glob("*/*") if path.is_dir())
    for path in sorted(path for path in entries if KEY.fullmatch(path.parent.name)):
        records = [path / record for record in (SIDECAR, RECORD) if (path / record).exists()]
        source = str(read_json(records[-1]).get("source")) if records else "unfinished"
        size = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
        yield CachedModel(path, source, size)


def clear_cache() -> None:
    """Remove everything in the cache."""
    for model in list(cached_models()):
        shutil.rmtree(model.path)
        if not any(model.path.parent.iterdir()):
            model.path.parent.rmdir()
