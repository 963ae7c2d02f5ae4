"""Whether a folder holds already what `fetch` would write, and whether its files are as they were written."""

from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.digest import file_digest, model_digest
from contextgraft.checkpoint.input_files import APPEARING
from contextgraft.checkpoint.model_folder import MODEL_CONFIG, MODEL_INDEX, PICKLES, open_model, read_json
from contextgraft.checkpoint.safetensors_header import MAX_HEADER, open_tensors
from contextgraft.errors import CheckpointError, ContextgraftError, OutputError, raise_read_error
from contextgraft.formats.hub_source import RECORD
from contextgraft.formats.model.own_files import check_own_files
from contextgraft.formats.peft import ADAPTER_CONFIG, ADAPTER_WEIGHTS, DENSE_DELTAS
from contextgraft.formats.sidecar import SIDECAR
from contextgraft.sources.conversion import AS_STORED, Conversion
from contextgraft.sources.copy_folder import is_adapter, model_files
from contextgraft.sources.hub.client import Hub, pinned_commit, resolve_repository
from contextgraft.sources.hub.files import has_digest
from contextgraft.sources.hub.headers import SUFFIX, WEIGHTS, open_headers
from contextgraft.sources.resolve import is_dataset, locate, on_hub

FETCH_AGAIN = "pass --force to fetch it again"


def fetched_already(
    source: str, out: Path, hub: Hub, *, headers: bool = False, conversion: Conversion = AS_STORED
) -> dict[str, Any] | None:
    """The record of what `out` holds, if `fetch` would write the same again; else None.

    Of a repository the commit is compared, of a model folder every file and the digest of the weights. Data
    sets, GGUF files, converted folders and adapters in folders are never recognised. Raises OutputError if
    the record fits, but files of `out` are missing, damaged or changed.
    """
    record = _record(out)
    dtype = "bfloat16" if conversion.dequantise else None
    requested = ("headers" if headers else "source"), source, dtype, conversion.convert_pickles
    recorded = (record.get(key) for key in ("kind", "source", "dequantised_to"))
    if is_dataset(source) or (*recorded, "converted_from" in record) != (*requested,):
        return None
    if on_hub(source):
        if (pinned_commit(source) or resolve_repository(hub, source).commit) != record.get("revision"):
            return None
    elif conversion != AS_STORED or not _is_copy(locate(source), out, record):
        return None
    check_fetched(out)
    return record


def check_fetched(out: Path) -> None:
    """Raise OutputError, naming --force, unless a fetched folder has the files of its record.

    Each file has its size, small files have their digest, and headers of weights are valid.
    """
    try:
        record = _record(out)
        if not record:
            raise CheckpointError("has no record of a fetch", path=out)
        CHECKS.get(str(record.get("kind")), _check_content)(out, record)
    except (ContextgraftError, OSError) as error:
        raise_read_error(error, out)
        raise OutputError(
            "was fetched already, but is damaged", path=out, received=error, remedy=FETCH_AGAIN
        ) from None


def _record(out: Path) -> dict[str, Any]:
    """The record of a fetch; empty if there is none."""
    path = record_path(out)
    return read_json(path) if path else {}


def record_path(out: Path) -> Path | None:
    """The file with the record of a fetch: an adapter's own sidecar does not replace it; None without one."""
    return next((out / name for name in (RECORD, SIDECAR) if (out / name).exists()), None)


def _is_copy(source: Path, out: Path, record: Mapping[str, Any]) -> bool:
    """Whether a copy of a model folder would have the files of `out`; OutputError if its weights changed."""
    if not (source / MODEL_CONFIG).is_file() or is_adapter(source) or record.get("digest") is None:
        return False
    check_fetched(out)
    check_own_files(source)
    model = open_model(source)
    names = model_files(model)
    if set(record.get("files", {})) != set(names):
        return False
    small = (name for name in names if name not in model.shards)
    if any((source / name).read_bytes() != (out / name).read_bytes() for name in small):
        return False
    if any((source / name).stat().st_size != (out / name).stat().st_size for name in model.shards):
        return False
    if model_digest(open_model(out)) != record["digest"]:
        raise OutputError("its weights were changed after the fetch", path=out, remedy=FETCH_AGAIN)
    return bool(model_digest(model) == record["digest"])


def _check_headers(out: Path, record: Mapping[str, Any]) -> None:
    weights = [name for name in _files(out, record) if name.endswith(WEIGHTS)]
    _check_listed(out, record, set(weights))
    for name in weights:
        _size(out / f"{name}{SUFFIX}")
    if MODEL_CONFIG in _files(out, record):
        open_headers(out)


def _check_content(out: Path, record: Mapping[str, Any]) -> None:
    """Check the headers of weights, and the listed files: of a repository not those that were converted."""
    if (out / MODEL_CONFIG).exists():
        open_model(out)
    else:
        read_json(out / ADAPTER_CONFIG)
        open_tensors(out / ADAPTER_WEIGHTS)
        if record.get("dense") or (out / DENSE_DELTAS).exists():
            open_tensors(out / DENSE_DELTAS)
    listed = _files(out, record)
    if record.get("kind") != "source":  # a published graft: its small files were rewritten for the hub
        for name in listed:
            _size(out / name)
        return
    converted = "converted_from" in record or record.get("dequantised_to") is not None
    if record.get("revision") is not None and converted:
        rewritten = (MODEL_CONFIG, ADAPTER_CONFIG, MODEL_INDEX)
        weights = (WEIGHTS, ".index.json", *PICKLES)
        _check_listed(out, record, {name for name in listed if name in rewritten or name.endswith(weights)})
        return
    _check_listed(out, record, set())
    added = [name for name in APPEARING if listed and name not in listed and (out / name).exists()]
    if added:
        raise CheckpointError("was not fetched", path=out / added[0])


def _check_listed(out: Path, record: Mapping[str, Any], without: Container[str] = ()) -> None:
    """Check size and digest of the listed files; of weights and large files no digest is computed."""
    for name, facts in _files(out, record).items():
        if name in without:
            continue
        path, size = out / name, _size(out / name)
        if size != facts.get("bytes"):
            raise CheckpointError(
                "has another size", path=path, expected=f"{facts.get('bytes')} bytes", received=f"{size}"
            )
        if size <= MAX_HEADER and not name.endswith(WEIGHTS) and not _is_same(path, facts):
            raise CheckpointError("was changed", path=path)


def _size(path: Path) -> int:
    if not path.is_file():
        raise CheckpointError("no such file", path=path)
    return path.stat().st_size


def _is_same(path: Path, facts: Mapping[str, Any]) -> bool:
    if "digest" in facts:
        return bool(file_digest(path) == facts["digest"])
    return has_digest(path, facts)


def _files(out: Path, record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    files = record.get("files", {})
    if not isinstance(files, dict) or not all(isinstance(facts, dict) for facts in files.values()):
        raise CheckpointError("the list of files is malformed", path=out)
    return files


# by kind of the record; all others are models and adapters
CHECKS: Mapping[str, Callable[[Path, Mapping[str, Any]], None]] = {
    "headers": _check_headers,
    "data": _check_listed,
}
