"""The table of samples: one row per question (or measured text) and model, as Parquet."""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contextgraft.checkpoint.atomic import publish_file
from contextgraft.errors import OutputError

RUN = b"contextgraft.run"  # key of the schema's metadata: digest of models, questions and settings

CONTROL = "control"  # the column with a control's name; null for other models, and before the column existed
SPLIT = "split"  # the column with the split of a prompt; null for other suites, and in older tables
CHOOSE, REPORT = "choose", "report"  # prompts that choose the rank, prompts that a verdict is about
SPLIT_SUITES = ("needle", "skill")  # the suites that a verdict is based on
CHOOSES = 4  # one of so many texts or lines chooses
GRAFT = {
    "target_name": pa.string(),
    "target_digest": pa.string(),
    "base_digest": pa.string(),
    "donor_digest": pa.string(),
    "donor_name": pa.string(),
    "adapter_digest": pa.string(),
    "adapter_rank": pa.int32(),
    "adapter_scale": pa.float64(),
    CONTROL: pa.string(),
}
VERSIONS = ("contextgraft", "transformers", "torch", "lm_eval")
SCHEMA = pa.schema(
    {
        "model": pa.string(),
        "model_digest": pa.string(),
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
        "index": pa.int32(),
        SPLIT: pa.string(),
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
    if row.get("suite") not in SPLIT_SUITES or row.get("index") is None:
        return None
    return CHOOSE if row["index"] % CHOOSES == 0 else REPORT


def write(samples: pa.Table, path: Path, run: str) -> None:
    """Write a table atomically; `run`, the digest of models, questions and settings, goes to its metadata."""
    with publish_file(path) as temporary:
        pq.write_table(
            samples.replace_schema_metadata({RUN: run}),
            temporary,
            compression="zstd",
            write_page_checksum=True,
        )


def read_if(path: Path, run: str) -> pa.Table | None:
    """The table at `path` if it is of the same run and as it was written; else None."""
    try:
        samples = pq.read_table(path, page_checksum_verification=True)
        samples.validate(full=True)
    except (OSError, ValueError, pa.ArrowException):
        return None
    metadata = samples.schema.metadata or {}
    samples = samples.replace_schema_metadata(None)
    return samples if metadata.get(RUN) == run.encode() and samples.schema == SCHEMA else None


def check_replaceable(path: Path) -> None:
    """Raise OutputError if `path` is a file other than a table of samples."""
    if not path.exists():
        return
    try:
        ours = path.is_file() and RUN in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
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
