"""Texts of a recipe's documents, from files of several kinds, one after the other."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contextgraft.config.training import DocumentsSource
from contextgraft.errors import InputError

COMPRESSED = {".gz", ".zst", ".bz2", ".lz4"}
Bring = Callable[[str, Path, Sequence[str]], Mapping[str, Any]]  # data set, folder to make, patterns: record


def nowhere(source: str, out: Path, patterns: Sequence[str]) -> Mapping[str, Any]:  # noqa: ARG001
    """What brings a data set where there is no hub."""
    raise InputError("is on the hub, which is not at hand", path=source)


def found(source: DocumentsSource, folder: Path) -> list[Path]:
    """Files of a source that lie in a folder: pattern after pattern, each file once."""
    paths: dict[Path, None] = {}
    for pattern in source.files:
        named = sorted(folder.glob(pattern)) if not Path(pattern).is_absolute() else [Path(pattern)]
        if not named:
            raise InputError("no file of documents", path=folder / pattern, remedy="mend the recipe's files")
        paths |= dict.fromkeys(named)
    return list(paths)


def documents(paths: Iterable[Path], column: str) -> Iterator[str]:
    """Texts of all files; one that holds none is refused."""
    for path in paths:
        kind = path.with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix
        if kind not in READERS:
            raise InputError("is of no known kind", path=path, expected=" or ".join(sorted(READERS)))
        try:
            yield from READERS[kind](path, column)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise InputError(
                "cannot be read as documents",
                path=path,
                expected=f"texts in {column!r}",
                received=str(error)[:80],
            ) from None


def _text(path: Path, _: str) -> Iterator[str]:
    with _opened(path) as text:
        yield text.read()


def _json_lines(path: Path, column: str) -> Iterator[str]:
    with _opened(path) as lines:
        for line in lines:
            yield _checked(json.loads(line)[column])


def _opened(path: Path) -> TextIOWrapper:
    """A file as text, decompressed by its last suffix."""
    return TextIOWrapper(pa.input_stream(str(path), compression="detect"), encoding="utf-8")


def _parquet(path: Path, column: str) -> Iterator[str]:
    with pq.ParquetFile(path, memory_map=True) as file:
        for batch in file.iter_batches(columns=[column], batch_size=256):
            yield from map(_checked, batch.column(column).to_pylist())


def _checked(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__}, no text")
    return value


READERS = {".txt": _text, ".jsonl": _json_lines, ".parquet": _parquet}
