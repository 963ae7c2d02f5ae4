"""Data sets of the hub that a recipe names: pinned to a commit, fetched once, removed when packed.

What is kept of them, the commits and the record of every data set, has a digest of its content.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from contextgraft.checkpoint.atomic import remove, write_json
from contextgraft.checkpoint.digest import json_digest
from contextgraft.checkpoint.model_folder import read_json
from contextgraft.config.training.data import DocumentsSource
from contextgraft.errors import CheckpointError, InputError, raise_read_error
from contextgraft.formats.sidecar import read_sidecar
from contextgraft.training.data.documents import file_format

FETCHED = "fetched"
PINS = "pins"  # the commit of every data set, looked up once per run


class DatasetProvider(Protocol):
    """Where training gets data sets of the hub from, without depending on the hub's client."""

    def pinned(self, source: str) -> str:
        """The source with the commit that it refers to now."""

    def fetch(
        self, source: str, out: Path, patterns: Sequence[str], usable: Callable[[str], object]
    ) -> object:
        """Put the files that match a pattern into the folder `out`, with a sidecar of kind "data".

        `usable` is called with every file name before anything is fetched; it may raise InputError.
        """

    def is_whole(self, source: str, out: Path) -> bool:
        """Whether `out` has what was fetched from a pinned source, byte for byte."""


def fetch_files(source: DocumentsSource, work: Path, datasets: DatasetProvider | None) -> list[Path]:
    """Files of a source on the hub, sorted by name; what an earlier run fetched is not fetched again.

    Without a provider InputError is raised.
    """
    assert source.hub is not None
    if datasets is None:
        raise InputError("needs the Hugging Face hub, but no hub client was given", path=source.hub)
    pins = _pins(work)
    if source.hub not in pins:
        pins[source.hub] = datasets.pinned(source.hub)
        (work / FETCHED).mkdir(exist_ok=True)
        _write(_path(work, PINS), pins)
    folder = _folder(source, work, pins[source.hub])
    if not datasets.is_whole(pins[source.hub], folder):
        remove(folder)
        datasets.fetch(pins[source.hub], folder, source.files, file_format)
    record = read_sidecar(folder, "data")
    summary = {"source": source.hub, "revision": record["revision"], "files": record["files"]}
    _write(_path(work, folder.name), summary)
    return [folder / name for name in sorted(record["files"])]


def remove_files(work: Path) -> None:
    """Remove what was fetched; the records stay."""
    for path in (work / FETCHED).glob("*"):
        if path.is_dir():
            remove(path)


def records_are_whole(work: Path) -> bool:
    """Whether what is kept of data sets in a work directory is as it was written."""
    return all(_read(path) is not None for path in (work / FETCHED).glob("*.json"))


def dataset_records(sources: Sequence[DocumentsSource], work: Path) -> list[dict[str, Any]]:
    """Source, commit and file digests of every data set that was fetched for these sources."""
    pins = _pins(work)
    folders = {_folder(source, work, pins[source.hub]): None for source in sources if source.hub in pins}
    return [_read(_path(work, folder.name)) or {} for folder in folders]


def _folder(source: DocumentsSource, work: Path, pinned: str) -> Path:
    """Folder of a source's files, named by what is fetched: sources with the same files share it."""
    key = json.dumps([pinned, source.files]).encode()
    return work / FETCHED / hashlib.sha256(key).hexdigest()[:12]


def _pins(work: Path) -> dict[str, str]:
    return _read(_path(work, PINS)) or {}


def _write(path: Path, content: dict[str, Any]) -> None:
    write_json(path, {"content": content, "digest": json_digest(content)})


def _read(path: Path) -> dict[str, Any] | None:
    """What was written to a file; None if there is none, or if it is spoiled."""
    try:
        record = read_json(path)
    except CheckpointError as error:
        raise_read_error(error, path)
        return None
    content = record.get("content")
    return content if isinstance(content, dict) and record.get("digest") == json_digest(content) else None


def _path(work: Path, name: str) -> Path:
    return work / FETCHED / f"{name}.json"
