"""Texts of a recipe's documents, from files of several kinds, one after the other."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from contextgraft.config.training import DocumentsSource
from contextgraft.errors import InputError


def documents(source: DocumentsSource, folder: Path) -> Iterator[str]:
    """Texts of all files of a source, in the order of their names; a file that holds none is refused."""
    for pattern in source.files:
        paths = sorted(folder.glob(pattern)) if not Path(pattern).is_absolute() else [Path(pattern)]
        if not paths:
            raise InputError("no file of documents", path=folder / pattern, remedy="mend the recipe's files")
        for path in paths:
            if path.suffix not in READERS:
                raise InputError("is of no known kind", path=path, expected=" or ".join(sorted(READERS)))
            try:
                yield from READERS[path.suffix](path, source.column)
            except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
                raise InputError(
                    "cannot be read as documents",
                    path=path,
                    expected=f"texts in {source.column!r}",
                    received=str(error)[:80],
                ) from None


def _text(path: Path, _: str) -> Iterator[str]:
    yield path.read_text(encoding="utf-8")


def _json_lines(path: Path, column: str) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield _checked(json.loads(line)[column])


def _parquet(path: Path, column: str) -> Iterator[str]:
    with pq.ParquetFile(path, memory_map=True) as file:
        for batch in file.iter_batches(columns=[column], batch_size=256):
            yield from map(_checked, batch.column(column).to_pylist())


def _checked(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__}, no text")
    return value


READERS = {".txt": _text, ".jsonl": _json_lines, ".parquet": _parquet}
