"""Documents packed into sequences of one length, in Parquet shards that are read by row group.

Each row is a sequence: `ids`, exactly `length` of them, and `starts`, the positions in it at which a document
begins. Documents follow each other, each with the tokenizer's prefix in front, and are cut where a sequence
ends.
"""

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import accumulate, chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contextgraft.checkpoint.atomic import publish, remove
from contextgraft.config.text_file import check_regular
from contextgraft.config.training import Recipe
from contextgraft.config.training.data import DocumentsSource
from contextgraft.errors import InputError, OutputError, raise_read_error
from contextgraft.training.data.context import DataContext
from contextgraft.training.data.documents import TOKEN_IDS, find_files
from contextgraft.training.data.hub import DatasetProvider, fetch_files, remove_files
from contextgraft.training.data.source_choice import needed_rows
from contextgraft.training.data.tokenising import (
    GROUP_TOKENS,
    TOKENISED,
    Tokens,
    document_ids,
    stored,
    token_array,
    token_column,
)
from contextgraft.training.reporting.progress import TrainingReporter, count_rows

PACKED = "packed"
SHARD_TOKENS = 2**28  # of a file: 1 GiB before compression
SCHEMA = pa.schema([("ids", pa.list_(pa.int32())), ("starts", pa.list_(pa.int32()))])

PackedRow = tuple[list[int], list[int]]
NewRow = tuple[Tokens, list[int]]


class PackedSequences:
    """The sequences in a folder of shards; each pass over them has a new order, drawn from the seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.shards = [
            pq.ParquetFile(path, page_checksum_verification=True)  # mapped, an error of the disk is SIGBUS
            for path in sorted(folder.glob("*.parquet"))
        ]
        self.ends = list(accumulate(shard.metadata.num_rows for shard in self.shards))
        self.folder, self.seed = folder, seed
        self.epoch, self.order = -1, np.arange(0)

    def row(self, ordinal: int) -> PackedRow:
        """Ids and starts of a sequence; none is repeated before all have been returned once."""
        epoch, index = divmod(ordinal, self.ends[-1])
        if epoch != self.epoch:
            self.epoch = epoch
            self.order = np.random.default_rng([self.seed, epoch]).permutation(self.ends[-1])
        row = int(self.order[index])
        number = bisect_right(self.ends, row)
        shard = self.shards[number]
        first = self.ends[number] - shard.metadata.num_rows
        group, offset = divmod(row - first, shard.metadata.row_group(0).num_rows)
        try:
            record = shard.read_row_group(group).slice(offset, 1).to_pylist()[0]
        except (pa.ArrowException, OSError) as error:
            raise_read_error(error, self.folder)
            remove(self.folder)
            raise OutputError(
                "the packed sequences are spoiled", path=self.folder, received=str(error)[:200],
                remedy="run the same command again: it packs them again",
            ) from None  # fmt: skip
        return record["ids"], record["starts"]


def pack(
    recipe: Recipe,
    context: DataContext,
    work: Path,
    *,
    datasets: DatasetProvider | None,
    reporter: TrainingReporter,
) -> None:
    """Pack every source of documents to every length it is used at, unless that is already done in `work`.

    Of a source with `read: needed`, as many sequences as the recipe takes. Data sets of the hub are fetched
    first and removed when everything is packed. When the reporter asks to stop, KeyboardInterrupt is raised.
    """
    folder = work / PACKED
    for stale in folder.glob(f"{TOKENISED}*"):  # of a run that was killed here
        remove(stale)
    for source in document_sources(recipe):
        counts = missing_counts(recipe, source, work)
        if not counts:
            continue
        paths = fetch_files(source, work, datasets) if source.hub else find_files(source, context.folder)
        prefix_ids = () if source.column == TOKEN_IDS else context.prefix_ids
        read = partial(document_ids, source, paths, context)
        once = len(counts) == 1 or source.column == TOKEN_IDS
        with (
            nullcontext(read) if once else stored(read(), folder, token_limit(counts), reporter) as documents
        ):
            for length, count in counts.items():
                reporter.message(f"packing {len(paths)} files to sequences of {length:,} tokens")
                with publish(packed_path(work, source, length)) as shards:
                    rows = islice(sequences(documents(), length, prefix_ids), count)
                    write_shards(shards, count_rows(rows, reporter), length)
    remove_files(work)


def missing_counts(recipe: Recipe, source: DocumentsSource, work: Path) -> dict[int, int | None]:
    """Lengths at which a source is used and not packed yet, and how many sequences; None: all that there are.

    With `read: needed` a length that no step takes from the source is not packed.
    """
    lengths = sorted({stage.length for stage in recipe.stages} | set(recipe.replay.lengths))
    needed = needed_rows(recipe)
    counts = {
        length: needed[source, length] if source.read == "needed" else None
        for length in lengths
        if source.lengths is None or length in source.lengths
    }
    return {
        length: count
        for length, count in counts.items()
        if count != 0 and not is_packed(packed_path(work, source, length))
    }


def token_limit(counts: Mapping[int, int | None]) -> int | None:
    """Tokens of documents that are enough for so many sequences of each length; None: all."""
    limits = [length * count for length, count in counts.items() if count is not None]
    return max(limits) if len(limits) == len(counts) else None


def is_packed(path: Path) -> bool:
    """Whether a folder has packed sequences; what an interrupted run left spoiled is removed."""
    if not os.path.lexists(path):
        return False
    try:
        paths = sorted(path.glob("*.parquet"))
        for shard in paths:
            check_regular(shard)
        shards = [pq.read_schema(shard) for shard in paths]
    except (pa.ArrowException, OSError) as error:
        raise_read_error(error, path)
        shards = []
    if not shards or any(schema != SCHEMA for schema in shards):
        remove(path)
        return False
    return True


def packed_path(work: Path, source: DocumentsSource, length: int) -> Path:
    """Folder of a source's sequences of one length."""
    name = hashlib.sha256(source.model_dump_json().encode()).hexdigest()[:12]
    return work / PACKED / f"{name}-{length}"


def document_sources(recipe: Recipe) -> list[DocumentsSource]:
    """The sources of a recipe that are packed."""
    return [source for source in recipe.data if isinstance(source, DocumentsSource)]


def sequences(encoded: Iterable[Tokens], length: int, prefix_ids: Sequence[int]) -> Iterator[NewRow]:
    """Ids (length,) int32 and starts of complete sequences; the remainder after the last one is dropped."""
    prefix = token_array(prefix_ids)
    parts: list[np.ndarray] = []
    starts: list[int] = []
    count = 0
    for document in encoded:
        starts.append(count)
        parts += [prefix, token_array(document)]
        count += len(prefix) + len(document)
        if count < length:
            continue
        complete = count - count % length
        ids = np.concatenate(parts)
        for begin in range(0, complete, length):
            end = begin + length
            yield ids[begin:end], [start - begin for start in starts if begin <= start < end]
        # copied only when something is complete: time is linear in the documents
        parts, starts = [ids[complete:].copy()], [start - complete for start in starts if start >= complete]
        count -= complete


def write_shards(folder: Path, rows: Iterator[NewRow], length: int, shard_tokens: int = SHARD_TOKENS) -> None:
    """Write shards with at most one row group in memory; no rows at all raise InputError."""
    for stale in folder.glob("*.parquet"):  # from a run that was killed here
        stale.unlink()
    size = max(1, min(GROUP_TOKENS, shard_tokens) // length)
    groups = iter(lambda: list(islice(rows, size)), [])
    number = -1
    for number, first in enumerate(groups):
        with pq.ParquetWriter(folder / f"{number:05d}.parquet", SCHEMA, write_page_checksum=True) as writer:
            for group in chain([first], islice(groups, max(1, shard_tokens // (size * length)) - 1)):
                columns = [token_column(column) for column in zip(*group, strict=True)]
                writer.write_table(pa.table(columns, schema=SCHEMA))
    if number < 0:
        raise InputError("the documents are shorter than one sequence", expected=f"{length} tokens")
