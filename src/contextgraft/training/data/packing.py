"""Documents packed to sequences of one length, kept as Parquet shards: read by row group from a memory map.

Each row is a sequence: `ids`, exactly `length` of them, and `starts`, the places in it at which a document
begins. Documents stand one behind the other, each behind the tokenizer's prefix, cut where a sequence ends.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contextgraft.checkpoint.atomic import publish
from contextgraft.config.training import DocumentsSource, Recipe
from contextgraft.errors import InputError
from contextgraft.prompts.tokens import Encode
from contextgraft.training.data import hub
from contextgraft.training.data.documents import documents, found
from contextgraft.training.data.hub import Library, fetched
from contextgraft.training.progress import told

FOLDER = "packed"
GROUP_TOKENS = 2**20  # of a row group: what is decoded to read one row
SHARD_TOKENS = 2**28  # of a file: a gibibyte before compression
SCHEMA = pa.schema([("ids", pa.list_(pa.int32())), ("starts", pa.list_(pa.int32()))])

Row = tuple[list[int], list[int]]


class Packed:
    """The sequences of a folder of shards, in an order shuffled by the seed, anew for each pass over them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.shards = [pq.ParquetFile(path, memory_map=True) for path in sorted(folder.glob("*.parquet"))]
        self.ends = list(accumulate(shard.metadata.num_rows for shard in self.shards))
        self.seed = seed
        self.turn, self.order = -1, np.arange(0)

    def at(self, ordinal: int) -> Row:
        """Ids and starts of a sequence; none comes twice before all have come once."""
        turn, place = divmod(ordinal, self.ends[-1])
        if turn != self.turn:
            self.turn, self.order = turn, np.random.default_rng([self.seed, turn]).permutation(self.ends[-1])
        row = int(self.order[place])
        number = bisect_right(self.ends, row)
        shard = self.shards[number]
        first = self.ends[number] - shard.metadata.num_rows
        group, within = divmod(row - first, shard.metadata.row_group(0).num_rows)
        found = shard.read_row_group(group).slice(within, 1).to_pylist()[0]
        return found["ids"], found["starts"]


def pack(
    recipe: Recipe,
    folder: Path,
    work: Path,
    encode: Encode,
    prefix_ids: Sequence[int],
    *,
    library: Library | None = None,
    tell: Callable[[str], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Pack every source of documents to every length it is asked for, unless an earlier run has done so.

    What the library has for them is fetched, and goes when all are packed. When `stop` says so
    KeyboardInterrupt is raised.
    """
    lengths = sorted({stage.length for stage in recipe.stages} | set(recipe.replay.lengths))
    for source in of_documents(recipe):
        places = {
            length: packed_path(work, source, length)
            for length in lengths
            if source.lengths is None or length in source.lengths
        }
        missing = {length: place for length, place in places.items() if not place.exists()}
        if not missing:
            continue
        paths = fetched(source, work, library) if source.hub else found(source, folder)
        for length, place in missing.items():
            tell(f"packing {len(paths)} files to sequences of {length:,} tokens")
            encoded = map(encode, documents(paths, source.column))
            with publish(place) as shards:
                write(shards, told(sequences(encoded, length, prefix_ids), tell, stop), length)
    hub.remove(work)


def packed_path(work: Path, source: DocumentsSource, length: int) -> Path:
    """Where a source's sequences of one length lie."""
    name = hashlib.sha256(source.model_dump_json().encode()).hexdigest()[:12]
    return work / FOLDER / f"{name}-{length}"


def of_documents(recipe: Recipe) -> list[DocumentsSource]:
    """The sources that are packed."""
    return [source for source in recipe.data if isinstance(source, DocumentsSource)]


def sequences(encoded: Iterator[list[int]], length: int, prefix_ids: Sequence[int]) -> Iterator[Row]:
    """Ids and starts of whole sequences; what is left at the end of all documents is dropped."""
    ids: list[int] = []
    starts: list[int] = []
    for document in encoded:
        starts.append(len(ids))
        ids += [*prefix_ids, *document]
        whole = len(ids) - len(ids) % length
        for begin in range(0, whole, length):
            end = begin + length
            yield ids[begin:end], [start - begin for start in starts if begin <= start < end]
        ids, starts = ids[whole:], [start - whole for start in starts if start >= whole]


def write(folder: Path, rows: Iterator[Row], length: int, shard_tokens: int = SHARD_TOKENS) -> None:
    """Shards, no more than a row group of them in memory; no row at all raises InputError."""
    for stale in folder.glob("*.parquet"):  # of a run that was killed here
        stale.unlink()
    size = max(1, min(GROUP_TOKENS, shard_tokens) // length)
    groups = iter(lambda: list(islice(rows, size)), [])
    number = -1
    for number, first in enumerate(groups):
        with pq.ParquetWriter(folder / f"{number:05d}.parquet", SCHEMA) as writer:
            for group in chain([first], islice(groups, max(1, shard_tokens // (size * length)) - 1)):
                ids, starts = zip(*group, strict=True)
                writer.write_table(pa.table([ids, starts], schema=SCHEMA))
    if number < 0:
        raise InputError("the documents are shorter than one sequence", expected=f"{length} tokens")
