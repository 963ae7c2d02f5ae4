"""Texts of a recipe's documents, from files of several kinds, one after the other."""

import json
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from contextgraft.config.training import DocumentsSource
from contextgraft.errors import InputError

COMPRESSED = {".gz", ".zst", ".bz2", ".lz4"}
UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError, pa.ArrowException)


def found(source: DocumentsSource, folder: Path) -> list[Path]:
    """Files of a source that lie in a folder: pattern after pattern, each file once."""
    paths: dict[Path, None] = {}
    for pattern in source.files:
        try:
            named = sorted(folder.glob(pattern)) if not Path(pattern).is_absolute() else [Path(pattern)]
        except ValueError as error:
            raise InputError("is no pattern", path=folder / pattern, received=str(error)) from None
        if not named:
            raise InputError("no file of documents", path=folder / pattern, remedy="mend the recipe's files")
        paths |= dict.fromkeys(named)
    return list(paths)


def kind(name: str) -> str:
    """The suffix by which a file is read; one that no reader is for raises InputError."""
    path = PurePosixPath(name)
    compressed = path.suffix in COMPRESSED
    suffix = path.with_suffix("").suffix if compressed else path.suffix
    if suffix not in READERS or (compressed and suffix == PARQUET):
        raise InputError("is of no known kind", path=name, expected=" or ".join(sorted(READERS)))
    return suffix


def documents(paths: Iterable[Path], column: str) -> Iterator[str]:
    """Texts of all files; a file that does not hold what its kind promises raises InputError."""
    for path in paths:
        reader = READERS[kind(str(path))]
        try:
            yield from map(_checked, reader(path, column))
        except UNREADABLE as error:
            raise InputError(
                "cannot be read as documents",
                path=path,
                expected=f"texts in {column!r}",
                received=str(error)[:80],
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
    """A file as text, decompressed by its last suffix; some begin with a mark that is no text."""
    return TextIOWrapper(pa.input_stream(str(path), compression="detect"), encoding="utf-8-sig")


def _parquet(path: Path, column: str) -> Iterator[object]:
    with pq.ParquetFile(path, memory_map=True) as file:
        for batch in file.iter_batches(columns=[column], batch_size=256):
            yield from batch.column(column).to_pylist()


def _checked(value: object) -> str:
    """A text that a tokenizer takes: JSON can hold halves of characters."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__}, no text")
    value.encode()
    return value


PARQUET = ".parquet"  # has a compression of its own
READERS = {".txt": _text, ".jsonl": _json_lines, ".json": _json_lines, PARQUET: _parquet}
