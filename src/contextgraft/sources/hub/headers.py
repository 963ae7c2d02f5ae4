"""A model of the hub without its weights: config, tokenizer, and the headers of its safetensors files."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.atomic import publish, write_json
from contextgraft.checkpoint.model_folder import MODEL_CONFIG, MODEL_INDEX, ModelFolder, open_model
from contextgraft.checkpoint.resume import ResumeLog
from contextgraft.checkpoint.safetensors_header import MAX_HEADER
from contextgraft.errors import CheckpointError
from contextgraft.formats.sidecar import SIDECAR, read_sidecar
from contextgraft.sources.hub.client import Hub, TransferTruncated, resolve_repository, with_retries
from contextgraft.sources.hub.download import Transfer, check_no_token, download, is_range_from, open_response
from contextgraft.sources.hub.fetch import bytes_on_disk, check_disk_space, files_to_fetch, source_record
from contextgraft.sources.hub.files import HubFile

SUFFIX = ".header"  # of a file that holds the first bytes of a safetensors file: length and header
FIRST_BYTES = 1 << 17  # size of the first request; most headers are shorter
WEIGHTS = ".safetensors"


def fetch_headers(source: str, out: Path, hub: Hub, *, replace: bool = False) -> dict[str, Any]:
    """Write config, tokenizer, index and headers of `hf:OWNER/NAME[@REVISION]` to `out`, but no weights.

    Returns the record, of kind "headers": the commit, and size and digest of every file as the hub
    records them; those of the weights are not verified. Raises as `fetch_repository`.
    """
    with publish(out, replace=replace) as work:
        repository = resolve_repository(hub, source)
        job = {"source": repository.name, "commit": repository.commit, "what": "headers"}
        with ResumeLog(work, job) as resume_log:
            transfer = Transfer(hub, repository, resume_log)
            before = bytes_on_disk(transfer)
            files = files_to_fetch(transfer)
            whole = tuple(file for file in files if not file.name.endswith(WEIGHTS))
            check_disk_space(transfer, out, whole, before)
            download(transfer, whole)
            weights = [file for file in files if file.name.endswith(WEIGHTS)]
            with ThreadPoolExecutor(hub.threads) as pool:
                list(pool.map(partial(_write_header, transfer), weights))
            record = source_record("headers", repository, files)
            write_json(work / SIDECAR, record)
            if (work / MODEL_CONFIG).exists():
                open_headers(work)
            return record


def open_headers(folder: Path) -> ModelFolder:
    """The model whose headers `fetch_headers` wrote: config, names, dtypes and shapes, but no tensors.

    The checks and errors are those of `checkpoint.model_folder.open_model`.
    """
    files = read_sidecar(folder, "headers").get("files", {})
    with tempfile.TemporaryDirectory() as temporary:
        hollow = Path(temporary)
        for name in (MODEL_CONFIG, MODEL_INDEX):
            if (folder / name).exists():
                shutil.copyfile(folder / name, hollow / name)
        for path in folder.glob(f"*{WEIGHTS}{SUFFIX}"):
            name = path.name.removesuffix(SUFFIX)
            shutil.copyfile(path, hollow / name)
            os.truncate(
                hollow / name, _size(files, name, folder)
            )  # a sparse file: the missing weights take no space
        try:
            model = open_model(hollow)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(temporary, str(folder))) from None
    others = [file.name for file in folder.iterdir() if file.name not in (MODEL_CONFIG, MODEL_INDEX)]
    return replace(model, path=folder, others=tuple(sorted(others)))


def _size(files: Any, name: str, folder: Path) -> int:
    size = files.get(name, {}).get("bytes") if isinstance(files, dict) else None
    if type(size) is not int or size < 0:
        raise CheckpointError(f"the size of {name!r} is missing or malformed", path=folder / SIDECAR)
    return size


def _write_header(transfer: Transfer, file: HubFile) -> None:
    """Fetch the first bytes of a safetensors file, up to the end of its header."""
    final = transfer.resume_log.work / f"{file.name}{SUFFIX}"
    part = transfer.partial_path(file)
    part.write_bytes(with_retries(transfer.hub, file.name, partial(_header, transfer, file)))
    part.replace(final)


def _header(transfer: Transfer, file: HubFile) -> bytes:
    """The header with the 8 bytes of its length, which is checked against the size of the file."""
    start = b"".join(_bytes(transfer, file, 0, min(FIRST_BYTES, file.bytes))) if file.bytes else b""
    end = 8 + int.from_bytes(start[:8], "little")
    if end > min(file.bytes, 8 + MAX_HEADER):
        raise CheckpointError(
            "not a well-formed safetensors file", path=f"{transfer.repository.source}/{file.name}",
            expected=f"a header within the file's {file.bytes} bytes", received=f"{end} bytes of it",
        )  # fmt: skip
    rest = b"".join(_bytes(transfer, file, len(start), end)) if end > len(start) else b""
    check_no_token(start + rest, f"{transfer.repository.source}/{file.name}")
    return (start + rest)[:end]


def _bytes(transfer: Transfer, file: HubFile, begin: int, end: int) -> Iterator[bytes]:
    """Bytes [begin, end) of a file, also from a server that ignores ranges."""
    with open_response(transfer.hub, transfer.repository, file.name, begin, end) as response:
        ranged = is_range_from(response, begin)
        at = begin if ranged else 0
        for chunk in response.iter_bytes():
            yield chunk[max(0, begin - at) : max(0, end - at)]
            at += len(chunk)
            if at >= end:
                return
        raise TransferTruncated("the transfer ended early")
