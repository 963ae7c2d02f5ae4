"""The samples of a study: found, checked, and loaded into an in-memory DuckDB database."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from contextgraft.errors import InputError

TEXT = "text"
INTEGER = "integer"
NUMBER = "number"

COLUMNS = {
    "model": TEXT,
    "model_digest": TEXT,
    "suite": TEXT,
    "task": TEXT,
    "kind": TEXT,
    "haystack": TEXT,
    "document": INTEGER,
    "length": INTEGER,
    "prompt_tokens": INTEGER,
    "prompt_digest": TEXT,
    "depth": NUMBER,
    "distractors": INTEGER,
    "seed": INTEGER,
    "index": INTEGER,
    "position": INTEGER,
    "tokens": INTEGER,
    "recipe": TEXT,
    "scoring": TEXT,
    "answer": TEXT,
    "output": TEXT,
    "score": NUMBER,
    "agreement": NUMBER,
    "reference_digest": TEXT,
    "status": TEXT,
    "reason": TEXT,
    "target_name": TEXT,
    "target_digest": TEXT,
    "base_digest": TEXT,
    "donor_digest": TEXT,
    "donor_name": TEXT,
    "adapter_digest": TEXT,
    "adapter_rank": INTEGER,
    "adapter_scale": NUMBER,
    "contextgraft": TEXT,
    "transformers": TEXT,
    "torch": TEXT,
    "lm_eval": TEXT,
}
SQL_TYPE = {TEXT: "VARCHAR", INTEGER: "BIGINT", NUMBER: "DOUBLE"}
FITS: dict[str, Callable[[pa.DataType], bool]] = {
    TEXT: lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    INTEGER: pa.types.is_integer,
    NUMBER: lambda kind: pa.types.is_floating(kind) or pa.types.is_integer(kind),
}
REMEDY = "give the files that `contextgraft evaluate` wrote, or a folder that holds them"


@dataclass(frozen=True)
class Source:
    """One file of samples; `name` is its path below the folder it was found in."""

    path: Path
    name: str


class Samples:
    """Samples of one study in DuckDB: table `placed` has each with its role; queries live in sql/*.sql."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        self._db = duckdb.connect(":memory:", config={"autoinstall_known_extensions": False, "threads": 1})
        self._load()
        self._refuse_scores()
        for name in ("models", "placed"):
            self._db.execute(query_text(name))

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The answer of sql/<query>.sql as dicts, in the query's own order."""
        answer = self._db.execute(query_text(query))
        names = [column[0] for column in answer.description]
        return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]

    def _load(self) -> None:
        wanted = ", ".join(
            f'CAST("{name}" AS {SQL_TYPE[kind]}) AS "{name}"' for name, kind in COLUMNS.items()
        )
        parts = [f"SELECT {wanted}, ? AS file FROM read_parquet(?)" for _ in self.sources]
        values = [value for source in self.sources for value in (source.name, str(source.path))]
        try:
            self._db.execute(f"CREATE TABLE raw AS {' UNION ALL '.join(parts)}", values)
        except duckdb.Error as error:
            raise InputError("cannot read the samples", received=first_line(error), remedy=REMEDY) from None

    def _refuse_scores(self) -> None:
        wrong = self._db.execute(query_text("wrong_scores")).fetchone()
        if wrong:
            raise InputError(
                "has a sample that is not scored as its status says",
                path=wrong[0],
                expected="where status is ok a score from 0 to 1, of perplexity and divergence nats; "
                "else none, and status truncated, skipped or failed",
                received=f"status {wrong[1]!r} with score {wrong[2]}",
                remedy=REMEDY,
            )


def query_text(name: str) -> str:
    """The text of sql/<name>.sql."""
    return files("contextgraft.report").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def find(results: Iterable[Path]) -> tuple[Source, ...]:
    """Every Parquet file named or below the folders named, each once, sorted; InputError if there is none."""
    found: dict[Path, Source] = {}
    for result in results:
        for path, name in _below(result):
            found.setdefault(path.resolve(), Source(path, name))
    return tuple(sorted(found.values(), key=lambda source: (source.name, str(source.path))))


def read(results: Iterable[Path]) -> Samples:
    """Find, check and load the samples; InputError names the first file that is not one of samples."""
    sources = find(results)
    for source in sources:
        check(source.path)
    return Samples(sources)


def check(path: Path) -> None:
    """Refuse a file that is not Parquet or lacks a column of the samples."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            "is not a readable Parquet file", path=path, received=first_line(error), remedy=REMEDY
        ) from None
    types = {field.name: field.type for field in schema}
    missing = [name for name in COLUMNS if name not in types]
    if missing:
        raise InputError(
            "is not a file of samples",
            path=path,
            expected=f"the columns {', '.join(COLUMNS)}",
            received=f"no {', '.join(missing)}",
            remedy=REMEDY,
        )
    for name, kind in COLUMNS.items():
        if not (pa.types.is_null(types[name]) or FITS[kind](types[name])):
            raise InputError(
                f"column {name!r} has another type",
                path=path,
                expected=kind,
                received=types[name],
                remedy=REMEDY,
            )


def _below(result: Path) -> list[tuple[Path, str]]:
    if result.is_file():
        return [(result, result.name)]
    if not result.is_dir():
        raise InputError("there is no such folder or file", path=result, remedy=REMEDY)
    below = sorted((path, path.relative_to(result)) for path in result.rglob("*.parquet"))
    # hidden folders hold what a running or killed evaluation has so far
    found = [
        (path, name.as_posix()) for path, name in below if not any(p.startswith(".") for p in name.parts)
    ]
    if not found:
        raise InputError("holds no *.parquet file", path=result, remedy=REMEDY)
    return found
