"""Check that a Parquet file of samples has the columns of `samples.SCHEMA`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from contextgraft.config.text_file import check_regular
from contextgraft.errors import InputError
from contextgraft.formats.find_samples import REMEDY
from contextgraft.formats.parquet.file_digest import is_spoiled
from contextgraft.formats.samples import ABSENT_IN_OLDER, OLDER_NAMES, SCHEMA


@dataclass(frozen=True)
class ColumnKind:
    """A kind of column: its name in error messages, its DuckDB type, and the Arrow types that fit it."""

    name: str
    sql: str
    fits: Callable[[pa.DataType], bool]


TEXT = ColumnKind(
    "text", "VARCHAR", lambda type_: pa.types.is_string(type_) or pa.types.is_large_string(type_)
)
INTEGER = ColumnKind("integer", "BIGINT", pa.types.is_integer)
NUMBER = ColumnKind(
    "number", "DOUBLE", lambda type_: pa.types.is_floating(type_) or pa.types.is_integer(type_)
)
KINDS = (TEXT, INTEGER, NUMBER)
# the first kind that fits the type an evaluation writes: integers are numbers too
COLUMNS = {field.name: next(kind for kind in KINDS if kind.fits(field.type)) for field in SCHEMA}


def check_sample_file(path: Path) -> dict[str, str | None]:
    """The name that each column has in a file, which may be of an older version; None if it lacks the column.

    Raises InputError if a file is not Parquet, lacks another column of the samples, or has one of another
    type. A column of nothing but nulls may have no type.
    """
    try:
        check_regular(path)
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            "not a readable Parquet file", path=path, received=first_line(error), remedy=REMEDY
        ) from None
    types = {field.name: field.type for field in schema}
    names = {name: name if name in types else OLDER_NAMES.get(name, name) for name in COLUMNS}
    absent = [name for name, written in names.items() if written not in types]
    missing = [name for name in absent if name not in ABSENT_IN_OLDER]
    if missing:
        raise InputError(
            "not a table of samples",
            path=path,
            expected=f"the columns {', '.join(COLUMNS)}",
            received=f"no {', '.join(missing)}",
            remedy=REMEDY,
        )
    for name, kind in COLUMNS.items():
        written = types.get(names[name])
        if written is not None and not (pa.types.is_null(written) or kind.fits(written)):
            raise InputError(
                f"column {name!r} has the wrong type",
                path=path,
                expected=kind.name,
                received=written,
                remedy=REMEDY,
            )
    return {name: None if name in absent else written for name, written in names.items()}


def stored_schema(path: Path) -> pq.ParquetSchema:
    """The columns of a checked file with their physical types, as readers other than pyarrow see them."""
    return pq.read_metadata(path).schema


def check_intact(path: Path) -> None:
    """InputError for a table with spoiled bytes: other readers, DuckDB among them, ignore checksums."""
    try:
        check_regular(path)
        raw = path.read_bytes()
        if is_spoiled(raw):
            raise ValueError("its bytes do not have the digest in the file")
        with pq.ParquetFile(pa.BufferReader(raw), page_checksum_verification=True) as file:
            for _ in file.iter_batches():
                pass
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            "the samples are spoiled", path=path, received=first_line(error),
            remedy="evaluate again, or restore the file",
        ) from None  # fmt: skip


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
