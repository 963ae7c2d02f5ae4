"""Fetch a repository of the hub into a folder: plan, download, check, record."""

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
from contextgraft.checkpoint.safetensors_header import MAX_HEADER, open_tensors
from contextgraft.errors import CheckpointError, OutputError
from contextgraft.formats.hub_source import RECORD
from contextgraft.formats.peft import ADAPTER_WEIGHTS, DENSE_DELTAS
from contextgraft.formats.sidecar import SIDECAR, sidecar
from contextgraft.sources.conversion import AS_STORED, Conversion, conversion_facts
from contextgraft.sources.hub.client import Hub, Repository, resolve_repository
from contextgraft.sources.hub.download import Transfer, download
from contextgraft.sources.hub.files import MAX_HTTP_BYTES, HubFile, TransferPlan, is_safe_name, select_files


def fetch_repository(
    source: str, out: Path, hub: Hub, *, conversion: Conversion = AS_STORED, replace: bool = False
) -> dict[str, Any]:
    """Write the files of the model, adapter or graft `hf:OWNER/NAME[@REVISION]` to `out`.

    Returns its record, of kind "source": the commit, and the verified size and digest of every file. An
    interrupted run of the same commit is continued. Raises InputError for an inaccessible repository,
    CheckpointError for one without usable files, SourceError for a failure of hub or network, OutputError for
    a disk without enough space.
    """
    with publish(out, replace=replace) as work:
        repository = resolve_repository(hub, source)
        job = {
            "source": repository.name,
            "commit": repository.commit,
            "what": "pickles" if conversion.convert_pickles else "files",
        }
        with ResumeLog(work, job) as resume_log:
            select = partial(files_to_fetch, convert_pickles=conversion.convert_pickles)
            files = transfer_files(Transfer(hub, repository, resume_log), out, select)
            return _record(work, repository, files, _convert(work, source, conversion))


def transfer_files(
    transfer: Transfer, out: Path, select: Callable[[Transfer], tuple[HubFile, ...]]
) -> tuple[HubFile, ...]:
    """Select files, report the plan, and download them; an interrupt keeps what was downloaded."""
    repository = transfer.repository
    transfer.resume_log.put("commit", {"commit": repository.commit})
    before = bytes_on_disk(transfer)
    files = select(transfer)
    check_disk_space(transfer, out, files, before)
    with transfer.hub.progress.bar(f"fetch {repository.name}", sum(file.bytes for file in files)) as advance:
        download(replace(transfer, advance=advance), files)
    return files


def bytes_on_disk(transfer: Transfer) -> dict[str, int]:
    """Bytes of each file of the repository that an earlier run downloaded."""
    files = transfer.repository.files.values()
    return {file.name: transfer.bytes_present(file) for file in files if is_safe_name(file.name)}


def files_to_fetch(transfer: Transfer, *, convert_pickles: bool = False) -> tuple[HubFile, ...]:
    """The files to fetch; those that the selection depends on are downloaded already."""
    repository = transfer.repository
    read = partial(_read, transfer)
    names = select_files(repository.files, read, repository.source, convert_pickles=convert_pickles)
    if SIDECAR not in names:
        (transfer.resume_log.work / SIDECAR).unlink(missing_ok=True)
    return sized_files(repository, names)


def sized_files(repository: Repository, names: Iterable[str]) -> tuple[HubFile, ...]:
    """The files of these names; CheckpointError for one without size or digest, or too large for HTTP."""
    files = tuple(repository.files[name] for name in names)
    for file in files:
        path = f"{repository.source}/{file.name}"
        if file.bytes < 0 or not file.digest:
            raise CheckpointError("the hub reports no size or no digest for this file", path=path)
        if file.bytes > MAX_HTTP_BYTES:
            kind = f"--repo-type {repository.kind}"
            remedy = f"`hf download {repository.name} {kind} --local-dir DIR`, and use that folder"
            raise CheckpointError(
                "too large for plain HTTP", path=path, expected=f"at most {MAX_HTTP_BYTES:,} bytes",
                received=f"{file.bytes:,}", remedy=remedy,
            )  # fmt: skip
    return files


def check_disk_space(
    transfer: Transfer, out: Path, files: tuple[HubFile, ...], before: Mapping[str, int]
) -> None:
    """Report the plan of the transfer; OutputError if the disk has too little space."""
    free = shutil.disk_usage(transfer.resume_log.work).free
    present = sum(before.get(file.name, 0) for file in files)
    plan = TransferPlan(transfer.repository.source, transfer.repository.commit, files, present, free)
    transfer.hub.progress.plan(plan)
    missing = plan.bytes - sum(transfer.bytes_present(file) for file in files)
    if missing > free:
        raise OutputError(
            "not enough disk space", path=out, expected=f"{missing:,} bytes free",
            received=f"{free:,}", remedy="free disk space or choose another output",
        )  # fmt: skip


def _read(transfer: Transfer, name: str) -> dict[str, Any]:
    """One JSON file of the repository, which the selection of the others depends on."""
    (file,) = sized_files(transfer.repository, [name])
    if file.bytes > MAX_HEADER:
        raise CheckpointError(
            "too large for JSON", path=f"{transfer.repository.source}/{name}",
            expected=f"at most {MAX_HEADER:,} bytes", received=f"{file.bytes:,}",
        )  # fmt: skip
    download(transfer, [file])
    return read_json(transfer.resume_log.work / name)


def _convert(work: Path, source: str, conversion: Conversion) -> dict[str, Any]:
    """Convert downloaded weights as `conversion` says; returns what the record says of that."""
    pickles = conversion.pickles(work, work)
    for name in pickles:
        (work / name).unlink()
    return conversion_facts(pickles, dequantised=conversion.fp8(work, source))


def _record(
    work: Path, repository: Repository, files: Iterable[HubFile], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Check the downloaded files and write their record in the file that fits the kind of the folder."""
    model = (work / MODEL_CONFIG).exists()
    if not model:
        for name in (ADAPTER_WEIGHTS, *([DENSE_DELTAS] if (work / DENSE_DELTAS).exists() else [])):
            open_tensors(work / name)
    digest = model_digest(open_model(work)) if model else None
    record = source_record("source", repository, files, digest=digest, **facts)
    if (work / SIDECAR).exists():
        origin = {key: record[key] for key in ("source", "revision")}
        write_json(work / SIDECAR, read_json(work / SIDECAR) | origin)
    else:
        write_json(work / (SIDECAR if model else RECORD), record)
    return record


def source_record(kind: str, repository: Repository, files: Iterable[HubFile], **more: Any) -> dict[str, Any]:
    """The sidecar of downloaded files: the commit, and size and digest of every file."""
    return sidecar(
        kind,
        name=repository.name.partition("/")[2],
        source=repository.source,
        revision=repository.commit,
        files={file.name: file.record() for file in files},
        **({"license": repository.license} if repository.license else {}),
        **more,
    )
