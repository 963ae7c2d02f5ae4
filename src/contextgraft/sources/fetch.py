"""Fetch a model or data set from a source into a folder that the other commands accept."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.atomic import publish, write_json
from contextgraft.checkpoint.digest import file_digest, model_digest
from contextgraft.checkpoint.input_files import InputFiles, files_of, unchanged
from contextgraft.checkpoint.model_folder import MODEL_CONFIG, open_model, read_json
from contextgraft.errors import ContextgraftError, InputError
from contextgraft.formats.hub_source import RECORD
from contextgraft.formats.sidecar import SIDECAR, sidecar
from contextgraft.sources.conversion import AS_STORED, Conversion
from contextgraft.sources.copy_folder import copy_folder, is_adapter
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.hub.dataset import fetch_dataset
from contextgraft.sources.hub.fetch import fetch_repository
from contextgraft.sources.hub.headers import WEIGHTS, fetch_headers
from contextgraft.sources.resolve import FORMS, is_dataset, locate, on_hub


def fetch(
    source: str,
    out: Path,
    dtype: str = "bfloat16",
    *,
    hub: Hub | None = None,
    headers: bool = False,
    include: Sequence[str] = (),
    conversion: Conversion = AS_STORED,
    replace: bool = False,
) -> dict[str, Any]:
    """Write the model that `source` names to `out` and return its record, of kind "source".

    Folders and repositories keep their dtype; GGUF files are dequantised and rounded to `dtype`. With
    `headers` the weights of a repository are not fetched, and the record is of kind "headers". Of a data set,
    the files that match `include` (default: all) are fetched, and the record is of kind "data". `conversion`
    says what becomes of weights that are pickles or FP8; by default, pickles are refused and FP8 is kept.
    `replace` allows `out` to exist. Unusable sources raise InputError, CheckpointError or SourceError, and
    `out` is not created.
    """
    if headers and (is_dataset(source) or not on_hub(source)):
        raise InputError("--headers needs a model on the hub", path=source, remedy="remove --headers")
    if include and not is_dataset(source):
        raise InputError("--include needs a data set on the hub", path=source, remedy="remove --include")
    if is_dataset(source):
        return fetch_dataset(source, out, hub or Hub(), include or ("*",), replace=replace)
    if on_hub(source):
        if headers:
            return fetch_headers(source, out, hub or Hub(), replace=replace)
        return fetch_repository(source, out, hub or Hub(), conversion=conversion, replace=replace)
    return _fetch(source, out, dtype, conversion, replace=replace)


def _fetch(source: str, out: Path, dtype: str, conversion: Conversion, *, replace: bool) -> dict[str, Any]:
    path = locate(source)
    if not path.is_dir() and not (path.is_file() and path.suffix == ".gguf"):
        raise InputError("neither a model folder nor a GGUF file", path=path, expected=FORMS)
    if path.is_dir() and not is_adapter(path):
        read_json(path / MODEL_CONFIG)  # before all files of the folder, of which it may have millions
    with publish(out, replace=replace, inputs=[path]) as work:
        clear(work)
        try:
            with unchanged(InputFiles([path.absolute()]) if path.is_file() else files_of(path)):
                facts = _write(path, work, dtype, conversion)
            record = _record(source, path, work, facts)
        except ContextgraftError as error:
            clear(work)  # it cannot be continued
            error.args = (str(error).replace(str(work), str(path)),)
            raise
        write_json(work / (RECORD if is_adapter(work) else SIDECAR), record)
    return record


def _write(path: Path, work: Path, dtype: str, conversion: Conversion) -> dict[str, Any]:
    """Write the model or adapter at `path` into `work`; returns what the record says of its conversion."""
    if path.is_dir():
        return copy_folder(path, work, conversion)
    from contextgraft.sources.gguf.model import write_model

    write_model(path, work, dtype)
    return {"dequantised_to": dtype}


def _record(source: str, path: Path, work: Path, facts: dict[str, Any]) -> dict[str, Any]:
    files = sorted(file for file in work.rglob("*") if file.is_file())
    return sidecar(
        "source",
        name=path.stem if path.is_file() else path.resolve().name,
        source=source,
        revision=None,
        digest=None if is_adapter(work) else model_digest(open_model(work)),
        files={file.relative_to(work).as_posix(): _facts(file) for file in files},
        **facts,
    )


def _facts(path: Path) -> dict[str, Any]:
    """Size and digest of a written file; of weights the size, because the digest of the model covers them."""
    size = {"bytes": path.stat().st_size}
    return size if path.name.endswith(WEIGHTS) else size | {"digest": file_digest(path)}


def clear(folder: Path) -> None:
    """Remove the files of an interrupted run, which cannot be continued."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
