"""A repository of the hub into a folder: looked up, planned, fetched, checked, put on record."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.atomic import publish, write_json
from contextgraft.checkpoint.digest import model_digest
from contextgraft.checkpoint.model_folder import MODEL_CONFIG, open_model, read_json
from contextgraft.checkpoint.resume import ResumeLog
from contextgraft.checkpoint.safetensors_header import open_tensors
from contextgraft.errors import CheckpointError, OutputError
from contextgraft.formats.peft import ADAPTER_WEIGHTS, DENSE_DELTAS
from contextgraft.formats.sidecar import SIDECAR, sidecar
from contextgraft.sources.hub.client import Hub, Repository, look_up
from contextgraft.sources.hub.download import Transfer, download
from contextgraft.sources.hub.files import LARGEST, HubFile, Plan, choose, plain

RECORD = "contextgraft.source.json"  # beside an adapter that other programs made: it must have no sidecar


def fetch_repository(source: str, out: Path, hub: Hub, *, replace: bool = False) -> dict[str, Any]:
    """Write the files that the model, adapter or graft `hf:OWNER/NAME[@REVISION]` is made of to `out`.

    Returns its record, of kind "source": the commit, and for every file size and digest as verified. What an
    interrupted run of the same commit fetched is taken up. A repository not to be had raises InputError,
    one that cannot be used CheckpointError, a hub or network that fails SourceError, a disk too small
    OutputError.
    """
    with publish(out, replace=replace) as work:
        repository = look_up(hub, source)
        job = {"source": repository.name, "commit": repository.commit, "what": "files"}
        with ResumeLog(work, job) as journal:
            return _record(work, repository, transferred(Transfer(hub, repository, journal), out, chosen))


def transferred(
    transfer: Transfer, out: Path, choose: Callable[[Transfer], tuple[HubFile, ...]]
) -> tuple[HubFile, ...]:
    """Choose files, say what is to come, and fetch them; from the first moment on an interrupt keeps all."""
    repository = transfer.repository
    transfer.journal.put("commit", {"commit": repository.commit})
    before = held(transfer)
    files = choose(transfer)
    room(transfer, out, files, before)
    with transfer.hub.watch.bar(f"fetch {repository.name}", sum(file.bytes for file in files)) as advance:
        download(replace(transfer, advance=advance), files)
    return files


def held(transfer: Transfer) -> dict[str, int]:
    """Bytes that an earlier run left of each file of the repository."""
    files = transfer.repository.files.values()
    return {file.name: transfer.present(file) for file in files if plain(file.name)}


def chosen(transfer: Transfer) -> tuple[HubFile, ...]:
    """The files to fetch; those that had to be read in order to know are there already."""
    repository = transfer.repository
    names = choose(repository.files, partial(_read, transfer), repository.source)
    if SIDECAR not in names:
        (transfer.journal.work / SIDECAR).unlink(missing_ok=True)
    return known_files(repository, names)


def known_files(repository: Repository, names: Iterable[str]) -> tuple[HubFile, ...]:
    """The files of these names; one that the hub gives no size or digest for, or not by HTTP, is refused."""
    files = tuple(repository.files[name] for name in names)
    for file in files:
        path = f"{repository.source}/{file.name}"
        if file.bytes < 0 or not file.digest:
            raise CheckpointError("the hub gives no size or no digest of it", path=path)
        if file.bytes > LARGEST:
            kind = f"--repo-type {repository.kind}"
            remedy = f"`hf download {repository.name} {kind} --local-dir DIR`, and give that folder"
            raise CheckpointError(
                "is larger than the hub gives over HTTP", path=path, expected=f"at most {LARGEST:,} bytes",
                received=f"{file.bytes:,}", remedy=remedy,
            )  # fmt: skip
    return files


def room(transfer: Transfer, out: Path, files: tuple[HubFile, ...], before: Mapping[str, int]) -> None:
    """Say what is about to be fetched; raise OutputError if the disk has no room for it."""
    free = shutil.disk_usage(transfer.journal.work).free
    present = sum(before.get(file.name, 0) for file in files)
    plan = Plan(transfer.repository.source, transfer.repository.commit, files, present, free)
    transfer.hub.watch.plan(plan)
    missing = plan.bytes - sum(transfer.present(file) for file in files)
    if missing > free:
        raise OutputError(
            "has no room for it", path=out, expected=f"{missing:,} bytes free",
            received=f"{free:,}", remedy="make room or name another output",
        )  # fmt: skip


def _read(transfer: Transfer, name: str) -> dict[str, Any]:
    """One JSON file of the repository, fetched before the others are known."""
    download(transfer, known_files(transfer.repository, [name]))
    return read_json(transfer.journal.work / name)


def _record(work: Path, repository: Repository, files: Iterable[HubFile]) -> dict[str, Any]:
    """Check what was fetched and write its record where the folder's kind has room for it."""
    model = (work / MODEL_CONFIG).exists()
    if not model:
        for name in (ADAPTER_WEIGHTS, *([DENSE_DELTAS] if (work / DENSE_DELTAS).exists() else [])):
            open_tensors(work / name)
    digest = model_digest(open_model(work)) if model else None
    record = record_of("source", repository, files, digest=digest, dequantised_to=None)
    if (work / SIDECAR).exists():
        write_json(work / SIDECAR, _told(read_json(work / SIDECAR), record))
    else:
        write_json(work / (SIDECAR if model else RECORD), record)
    return record


def record_of(kind: str, repository: Repository, files: Iterable[HubFile], **more: Any) -> dict[str, Any]:
    """The sidecar of this kind of what was fetched: the commit, and size and digest of every file."""
    return sidecar(
        kind,
        name=repository.name.partition("/")[2],
        source=repository.source,
        revision=repository.commit,
        files={file.name: file.record() for file in files},
        **more,
    )


def _told(own: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """The folder's own contextgraft.json, which now says where it was fetched from."""
    return dict(own) | {key: record[key] for key in ("source", "revision")}
