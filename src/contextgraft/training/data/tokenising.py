"""Token ids of a recipe's documents: by several processes, in order, texts once for all lengths."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contextgraft.config.training.data import DocumentsSource
from contextgraft.prompts.tokens import Encode
from contextgraft.training.data.context import DataContext
from contextgraft.training.data.documents import TOKEN_IDS, read_documents, read_token_ids
from contextgraft.training.reporting.progress import TrainingReporter, count_rows

TOKENISED = "tokenised-"  # begins the name of a folder that exists while packing
TASK_CHARACTERS = 2**16  # of the texts that a process gets at once
GROUP_TOKENS = 2**20  # of a row group, which is decoded to read one row
MOST_PROCESSES = 16  # beyond it, the process that packs is the slowest
IDS = pa.schema([("ids", pa.list_(pa.int32()))])

Tokens = Sequence[int] | np.ndarray
Item = TypeVar("Item", bound=Sized)


def document_ids(
    source: DocumentsSource, paths: Sequence[Path], context: DataContext
) -> Iterator[np.ndarray]:
    """The ids (n,) int32 of all documents of some files, without the tokenizer's prefix."""
    if source.column == TOKEN_IDS:
        return map(token_array, read_token_ids(paths, context.vocabulary))
    return encode_in_order(read_documents(paths, source.column), context.encoders(process_count()))


@contextmanager
def stored(
    documents: Iterator[np.ndarray], folder: Path, tokens: int | None, reporter: TrainingReporter
) -> Iterator[Callable[[], Iterator[np.ndarray]]]:
    """A function that reads the ids of documents as often as it is called, from a file in `folder`.

    These are the first documents that have so many `tokens` together, or all. When the reporter asks to stop,
    KeyboardInterrupt is raised.
    """
    reporter.message("tokenising documents")
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=TOKENISED) as temporary:
        path = Path(temporary) / "ids.parquet"
        with pq.ParquetWriter(path, IDS) as writer:
            needed = count_rows(_first(documents, tokens), reporter, "documents")
            for group in _groups(needed, GROUP_TOKENS):
                writer.write_table(pa.table([token_column(group)], schema=IDS))
        yield lambda: _read_groups(path)


def _first(documents: Iterator[np.ndarray], tokens: int | None) -> Iterator[np.ndarray]:
    """Documents until they have so many tokens together."""
    total = 0
    for document in documents:
        yield document
        total += len(document)
        if tokens is not None and total >= tokens:
            return


def encode_in_order(texts: Iterable[str], encoders: Sequence[Encode]) -> Iterator[np.ndarray]:
    """Token ids of each text, in the order of the texts; the encoders run at the same time.

    In memory are at most two groups of texts for each encoder, and their ids.
    """
    idle = SimpleQueue[Encode]()
    for encoder in encoders:
        idle.put(encoder)

    def encode(group: list[str]) -> list[np.ndarray]:
        encoder = idle.get()
        try:
            return [token_array(encoder(text)) for text in group]
        finally:
            idle.put(encoder)

    pending = deque[Future[list[np.ndarray]]]()
    with ThreadPoolExecutor(len(encoders)) as threads:
        try:
            for group in _groups(texts, TASK_CHARACTERS):
                pending.append(threads.submit(encode, group))
                if len(pending) == 2 * len(encoders):
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def process_count() -> int:
    """How many processes tokenise: one for each core that this process may use, up to a maximum."""
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


def token_array(ids: Tokens) -> np.ndarray:
    """Token ids as int32."""
    return np.asarray(ids, dtype=np.int32)


def token_column(rows: Sequence[Tokens]) -> pa.ListArray:
    """Rows of token ids as a column of lists."""
    ends = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(ends, np.concatenate([token_array(row) for row in rows]))


def _groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Items in groups that are complete when their lengths together are at least `size`."""
    group, total = list[Item](), 0
    for item in items:
        group.append(item)
        total += len(item)
        if total >= size:
            yield group
            group, total = [], 0
    if group:
        yield group


def _read_groups(path: Path) -> Iterator[np.ndarray]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            column = file.read_row_group(group).column(0).combine_chunks()
            yield from np.split(column.values.to_numpy(), column.offsets.to_numpy()[1:-1])
