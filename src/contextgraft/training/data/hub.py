"""Data sets of the hub that a recipe names: pinned to a commit, fetched once, removed when packed."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from contextgraft.checkpoint.atomic import write_json
from contextgraft.checkpoint.model_folder import read_json
from contextgraft.config.training import DocumentsSource
from contextgraft.errors import InputError
from contextgraft.formats.sidecar import read_sidecar
from contextgraft.training.data.documents import kind

FOLDER = "fetched"
PINS = "pins"  # the commit of every data set, found out once a run


class Library(Protocol):
    """Where data sets are."""

    def pinned(self, source: str) -> str:
        """The source with the commit that it stands for now."""

    def fetch(
        self, source: str, out: Path, patterns: Sequence[str], usable: Callable[[str], object]
    ) -> object:
        """Put the files that match into the folder `out`, with a sidecar of kind "data".

        `usable` raises InputError for a name that is of no use, before anything is fetched.
        """


def fetched(source: DocumentsSource, work: Path, library: Library | None) -> list[Path]:
    """Files of a source on the hub, by name; what an earlier run fetched is not asked for again.

    Without a library InputError is raised.
    """
    assert source.hub is not None
    if library is None:
        raise InputError("is on the hub, which is not at hand", path=source.hub)
    pins = _pins(work)
    if source.hub not in pins:
        pins[source.hub] = library.pinned(source.hub)
        (work / FOLDER).mkdir(exist_ok=True)
        write_json(_path(work, PINS), pins)
    folder = _folder(source, work, pins[source.hub])
    if not folder.exists():
        library.fetch(pins[source.hub], folder, source.files, kind)
    record = read_sidecar(folder, "data")
    known = {"source": source.hub, "revision": record["revision"], "files": record["files"]}
    write_json(_path(work, folder.name), known)
    return [folder / name for name in sorted(record["files"])]


def remove(work: Path) -> None:
    """Let go of what was fetched; what is known of it stays."""
    for path in (work / FOLDER).glob("*"):
        if path.is_dir():
            shutil.rmtree(path)


def records(sources: Sequence[DocumentsSource], work: Path) -> list[dict[str, Any]]:
    """Of every data set that was fetched for these sources: source, commit, and every file's digest."""
    pins = _pins(work)
    folders = {_folder(source, work, pins[source.hub]): None for source in sources if source.hub in pins}
    return [read_json(_path(work, folder.name)) for folder in folders]


def _folder(source: DocumentsSource, work: Path, pinned: str) -> Path:
    """Where the files of a source lie: by what they are, not by what is made of them."""
    named = json.dumps([pinned, source.files]).encode()
    return work / FOLDER / hashlib.sha256(named).hexdigest()[:12]


def _pins(work: Path) -> dict[str, str]:
    path = _path(work, PINS)
    return read_json(path) if path.exists() else {}


def _path(work: Path, name: str) -> Path:
    return work / FOLDER / f"{name}.json"
