"""What each step cost beside what it learnt: speed, memory, bytes moved; kept as Parquet outside the model.

The model's own metrics hold nothing that depends on the clock or on the number of processes; these do.
"""

import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from contextgraft.checkpoint.atomic import publish_file
from contextgraft.errors import OutputError
from contextgraft.training.engine import Outcome

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("stage", pa.int32()),
        ("length", pa.int64()),
        ("tokens", pa.int64()),
        ("theta", pa.float64()),
        ("learning_rate", pa.float64()),
        ("loss", pa.float64()),
        ("accuracy", pa.float64()),
        ("gradient_norm", pa.float64()),
        ("seconds", pa.float64()),
        ("tokens_per_second", pa.float64()),
        ("peak_memory", pa.int64()),
        ("ring_bytes_inside", pa.int64()),
        ("ring_bytes_between", pa.int64()),
    ]
)


class Meter:
    """A row a step: the metrics with `seconds` since the step before, and what the ring of all ranks sent.

    `peak_memory`: bytes the main process has held at most, on its GPU where it has one. A resumed run goes on
    in the same file; without a file rows are made, told and not kept.
    """

    def __init__(self, path: Path | None, before: Sequence[dict[str, Any]]) -> None:
        self.path = path
        self.rows = list(before)
        self.since = time.monotonic()

    def step(self, metrics: Mapping[str, Any], tokens: int, norm: float, outcome: Outcome) -> dict[str, Any]:
        """The row of a step that has just ended."""
        now = time.monotonic()
        seconds, self.since = now - self.since, now
        row = {
            **metrics,
            "tokens": tokens,
            "gradient_norm": norm,
            "seconds": seconds,
            "tokens_per_second": tokens / max(seconds, 1e-9),
            "peak_memory": peak_memory(),
            "ring_bytes_inside": outcome.inside,
            "ring_bytes_between": outcome.between,
        }
        if self.path is not None:
            self.rows.append(row)
        return row

    def write(self) -> None:
        """All rows so far, atomically."""
        if self.path is not None:
            with publish_file(self.path) as temporary:
                pq.write_table(pa.Table.from_pylist(self.rows, SCHEMA), temporary)


def earlier(path: Path | None, done: int) -> list[dict[str, Any]]:
    """Rows of the steps that are done; a file that is no such table raises OutputError."""
    if path is None or not done or not path.exists():
        return []
    try:
        table = pq.read_table(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        received = str(error)[:80]
    else:
        if table.schema.equals(SCHEMA):
            return [row for row in table.to_pylist() if row["step"] <= done]
        received = ", ".join(table.column_names)[:80]
    raise OutputError(
        "is not what an earlier part of this run has measured",
        path=path,
        received=received,
        remedy="remove it or name another file",
    )


def peak_memory() -> int:
    """Bytes this process has held at most: of its GPU, or of main memory where it computes there."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
