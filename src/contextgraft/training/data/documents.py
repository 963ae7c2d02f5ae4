"""Texts of a recipe's documents, from files of several formats, one after the other."""

import json
from collections.abc import Callable, Iterable, Iterator
from io import TextIOWrapper
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from contextgraft.config.text_file import check_regular
from contextgraft.config.training.data import DocumentsSource
from contextgraft.errors import InputError

Row = TypeVar("Row")
COMPRESSED = {".gz", ".zst", ".bz2", ".lz4"}
TOKEN_IDS = "input_ids"  # the column that has token ids, not texts
READ_ERRORS = (OSError, ValueError, KeyError, TypeError, RecursionError, pa.ArrowException)


def find_files(source: DocumentsSource, folder: Path) -> list[Path]:
    """Files in a folder that match a source's patterns, in the order of the patterns, each file once.

    A pattern that matches nothing raises InputError.
    """
    paths: dict[Path, None] = {}
    for pattern in source.files:
        try:
            matches = sorted(folder.glob(pattern)) if not Path(pattern).is_absolute() else [Path(pattern)]
        except ValueError as error:
            raise InputError("not a valid file pattern", path=folder / pattern, received=str(error)) from None
        if not matches:
            raise InputError("no file matches", path=folder / pattern, remedy="correct `files` in the recipe")
        paths |= dict.fromkeys(matches)
    return list(paths)


def file_format(name: str) -> str:
    """The suffix that decides how a file is read; one without a reader raises InputError."""
    path = PurePosixPath(name)
    compressed = path.suffix in COMPRESSED
    suffix = path.with_suffix("").suffix if compressed else path.suffix
    if suffix not in READERS or (compressed and suffix == PARQUET):
        raise InputError("unknown file format", path=name, expected=" or ".join(sorted(READERS)))
    return suffix


def read_documents(paths: Iterable[Path], column: str) -> Iterator[str]:
    """Texts of all files; a file without texts of its format raises InputError."""
    return _rows(paths, column, _checked, "documents", f"texts in {column!r}")


def read_token_ids(paths: Iterable[Path], vocabulary: int) -> Iterator[list[int]]:
    """Rows of token ids of all files; a file without them, or with ids beyond the vocabulary: InputError."""
    expected = f"lists of ids from 0 to {vocabulary - 1} in {TOKEN_IDS!r}"
    return _rows(paths, TOKEN_IDS, lambda row: _checked_ids(row, vocabulary), "token ids", expected)


def _rows(
    paths: Iterable[Path], column: str, check: Callable[[object], Row], what: str, expected: str
) -> Iterator[Row]:
    for path in paths:
        reader = READERS[file_format(str(path))]
        try:
            check_regular(path)
            yield from map(check, reader(path, column))
        except READ_ERRORS as error:
            raise InputError(
                f"cannot be read as {what}", path=path, expected=expected, received=str(error)[:80]
            ) from None


def _text(path: Path, _: str) -> Iterator[object]:
    with _opened(path) as text:
        yield text.read()


def _json_lines(path: Path, column: str) -> Iterator[object]:
    with _opened(path) as lines:
        for line in lines:
            if not line.isspace():
                yield json.loads(line)[column]


def _opened(path: Path) -> TextIOWrapper:
    """A file as text, decompressed by its last suffix; a byte order mark is skipped."""
    return TextIOWrapper(pa.input_stream(str(path), compression="detect"), encoding="utf-8-sig")


def _parquet(path: Path, column: str) -> Iterator[object]:
    rows = 1 if column == TOKEN_IDS else 256  # a row of ids can be a whole sequence
    # read in pieces, and not mapped: where the disk fails, that would kill the process
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        for batch in file.iter_batches(columns=[column], batch_size=rows):
            yield from batch.column(column).to_pylist()


def _checked(value: object) -> str:
    """A text that a tokenizer takes; JSON can contain lone surrogates, which raise UnicodeEncodeError."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__}, not a text")
    value.encode()
    return value


def _checked_ids(value: object, vocabulary: int) -> list[int]:
    """A row of ids that the model has embeddings for."""
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise TypeError(f"{type(value).__name__}, not a list of whole numbers")
    if value and not 0 <= min(value) <= max(value) < vocabulary:
        raise ValueError(f"ids from {min(value)} to {max(value)}")
    return value


PARQUET = ".parquet"  # has its own compression
READERS = {".txt": _text, ".jsonl": _json_lines, ".json": _json_lines, PARQUET: _parquet}
