"""The table of samples: one row per question (or measured text) and model, as Parquet."""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contextgraft.checkpoint.atomic import publish_file
from contextgraft.errors import OutputError, raise_read_error
from contextgraft.formats.parquet.file_digest import is_spoiled, with_digest

RUN = b"contextgraft.run"  # key of the schema's metadata: digest of models, questions and settings

ROLE = "role"
CONTROL = "control"  # the column with a control's name; null for other models, and before the column existed
SPLIT = "split"  # the column with the split of a prompt; null for other suites, and in older tables
CHOOSE, REPORT = "choose", "report"  # prompts that choose the rank, prompts that a verdict is about
CHAT = "chat"  # the column with 1 for prompts in the model's chat template, else 0; null in older tables
SPLIT_SUITES = ("needle", "skill")  # the suites that a verdict is based on
CHOOSES = 4  # one of so many texts or lines chooses
GRAFT = {
    "target_name": pa.string(),
    "target_digest": pa.string(),
    "base_digest": pa.string(),
    "donor_digest": pa.string(),
    "donor_name": pa.string(),
    "adapter_digest": pa.string(),
    "rank": pa.int32(),
    "scale": pa.float64(),
    CONTROL: pa.string(),
}
# names of columns in tables of older versions, by the name of today
OLDER_NAMES = {"sample_index": "index", "rank": "adapter_rank", "scale": "adapter_scale"}
ABSENT_IN_OLDER = (CONTROL, ROLE, SPLIT, CHAT)  # null there
THETA_ONLY = "theta only"
ROLE_OF_CONTROL = {  # as the report calls them
    "theta_only": THETA_ONLY,
    "yarn": "YaRN",
    "dynamic_ntk": "dynamic NTK",
    "random": "random adapter",
    "old_theta": "adapter, old theta",
    "whole_delta": "whole delta",
    "short_donor": "short donor",
}
VERSIONS = ("contextgraft", "transformers", "torch", "lm_eval")
SCHEMA = pa.schema(
    {
        "model": pa.string(),
        "model_digest": pa.string(),
        ROLE: pa.string(),
        "suite": pa.string(),
        "task": pa.string(),
        "kind": pa.string(),
        "haystack": pa.string(),
        "document": pa.int32(),
        "length": pa.int32(),
        "prompt_tokens": pa.int32(),
        "prompt_digest": pa.string(),
        "depth": pa.float64(),
        "distractors": pa.int32(),
        "seed": pa.int64(),
        "sample_index": pa.int32(),
        SPLIT: pa.string(),
        CHAT: pa.int32(),
        "position": pa.int32(),
        "tokens": pa.int32(),
        "recipe": pa.string(),
        "scoring": pa.string(),
        "answer": pa.string(),
        "output": pa.string(),
        "score": pa.float64(),
        "agreement": pa.float64(),
        "reference_digest": pa.string(),
        "status": pa.string(),
        "reason": pa.string(),
        **GRAFT,
        **dict.fromkeys(VERSIONS, pa.string()),
    }
)


def versions() -> dict[str, str | None]:
    """Versions of the packages that decide the samples; None for an optional one that is not installed."""
    return {name: installed_version(name) for name in VERSIONS}


@cache  # each look-up searches the files of all installed packages
def installed_version(package: str) -> str | None:
    """Version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def common(label: str, digest: str, graft: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that are the same in all rows of a model."""
    return {"model": label, "model_digest": digest, **graft, **versions()}


def table(shared: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows of one model, in their order, with their split; absent columns are null."""
    return pa.Table.from_pylist([{**shared, SPLIT: split_of(row), **row} for row in rows], schema=SCHEMA)


def split_of(row: Mapping[str, Any]) -> str | None:
    """Whether a row's prompt chooses the rank, or is one that the verdict is about; None in other suites.

    All prompts of one text are in one split, which follows from its number, so that it is the same for every
    model, and for more samples.
    """
    if row.get("suite") not in SPLIT_SUITES or row.get("sample_index") is None:
        return None
    return CHOOSE if row["sample_index"] % CHOOSES == 0 else REPORT


def with_roles(samples: pa.Table) -> pa.Table:
    """The same table with the role of every model, as far as the table shows it.

    `graft`, `theta only` or the name of a control; `base`, `donor` or `alone` for what a graft of the
    table was made of; `model` for others, whose role another table may show.
    """
    origins = {
        role: set(samples.column(name).unique().to_pylist()) - {None}
        for role, name in (("base", "base_digest"), ("donor", "donor_digest"), ("alone", "target_digest"))
    }
    columns = (
        samples.column(name).to_pylist() for name in ("model_digest", "target_digest", "scale", CONTROL)
    )
    roles = [
        _role_of_graft(scale, control)
        if target is not None
        else next((role for role, digests in origins.items() if digest in digests), "model")
        for digest, target, scale, control in zip(*columns, strict=True)
    ]
    index = samples.schema.get_field_index(ROLE)
    return samples.set_column(index, ROLE, pa.array(roles, pa.string()))


def _role_of_graft(scale: float | None, control: str | None) -> str:
    if control is not None:
        return ROLE_OF_CONTROL.get(control, control)
    return THETA_ONLY if scale == 0 else "graft"


def as_today(samples: pa.Table) -> pa.Table:
    """A table of an older version with the columns of today; any other table as it is.

    Role and split, if the table lacks them, follow from its other columns.
    """
    names = {old: new for new, old in OLDER_NAMES.items() if new not in samples.column_names}
    samples = samples.rename_columns([names.get(name, name) for name in samples.column_names])
    absent = [name for name in ABSENT_IN_OLDER if name not in samples.column_names]
    for name in absent:
        samples = samples.append_column(name, pa.nulls(len(samples), SCHEMA.field(name).type))
    if not set(SCHEMA.names) <= set(samples.column_names):
        return samples
    samples = samples.select(SCHEMA.names)
    if samples.schema != SCHEMA:
        return samples
    samples = _with_splits(samples) if SPLIT in absent else samples
    return with_roles(samples) if ROLE in absent else samples


def _with_splits(samples: pa.Table) -> pa.Table:
    splits = [split_of(row) for row in samples.select(["suite", "sample_index"]).to_pylist()]
    index = samples.schema.get_field_index(SPLIT)
    return samples.set_column(index, SPLIT, pa.array(splits, pa.string()))


def has_columns_of_today(path: Path) -> bool:
    """Whether a table in a file has the columns that `write` gives it."""
    return bool(pq.read_schema(path).names == SCHEMA.names)


def write(samples: pa.Table, path: Path, run: str) -> None:
    """Write a table atomically; `run`, the digest of models, questions and settings, goes to its metadata."""
    sink, tagged = pa.BufferOutputStream(), samples.replace_schema_metadata({RUN: run})
    pq.write_table(tagged, sink, compression="zstd", write_page_checksum=True)
    with publish_file(path) as temporary:
        temporary.write_bytes(with_digest(sink.getvalue().to_pybytes()))


def read_if(path: Path, run: str) -> pa.Table | None:
    """The table at `path` if it is of the same run and no byte of it is spoiled; else None.

    What wrote the file, and with which settings, does not matter. An older table has no digest of all its
    bytes, but checksums of its pages.
    """
    try:
        raw = path.read_bytes()
        samples = pq.read_table(pa.BufferReader(raw), page_checksum_verification=True)
        samples.validate(full=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise_read_error(error, path)
        return None
    metadata = samples.schema.metadata or {}
    samples = as_today(samples.replace_schema_metadata(None))
    ours = metadata.get(RUN) == run.encode() and samples.schema == SCHEMA
    return samples if ours and not is_spoiled(raw) else None


def check_replaceable(path: Path) -> None:
    """Raise OutputError if `path` is a file other than a table of samples."""
    if not path.exists():
        return
    try:
        ours = path.is_file() and RUN in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException) as error:
        raise_read_error(error, path)
        ours = False
    if not ours:
        raise OutputError("is not a table of samples", path=path, remedy="remove it or pass another --out")


def complete(samples: pa.Table) -> bool:
    """Whether the table is complete: nothing failed that might succeed the next time."""
    return "failed" not in samples.column("status").unique().to_pylist()


def failed_rows(samples: pa.Table) -> list[dict[str, Any]]:
    """Model and reason of every row that failed, which the next run repeats."""
    rows = [] if complete(samples) else samples.select(["model", "status", "reason"]).to_pylist()
    return [row for row in rows if row["status"] == "failed"]
