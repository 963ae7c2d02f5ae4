"""Metrics of every step, in two files.

`metrics.jsonl` is part of the result and holds nothing that depends on the clock or on the number of
processes. The Parquet file of `--measures` is outside the result and adds what does: speed, memory, bytes
sent.
"""

import json
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from contextgraft.checkpoint.atomic import publish_file
from contextgraft.config.text_file import check_regular
from contextgraft.errors import OutputError, raise_read_error
from contextgraft.training.engine import StepResult
from contextgraft.training.reporting.utilisation import ModelFlops
from contextgraft.training.schedule import TrainingStep
from contextgraft.training.state import METRICS_FILE

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
        ("mfu", pa.float64()),
        ("peak_memory", pa.int64()),
        ("ring_bytes_inside", pa.int64()),
        ("ring_bytes_between", pa.int64()),
    ]
)


class StepMetrics:
    """Rows of `SCHEMA`, one per step, written to a Parquet file; without a file rows are made but not kept.

    `seconds` are those since the step before, or since the stage began; `peak_memory` is that of the main
    process, in bytes; the bytes are those that the rings of all ranks sent. `mfu` is null without `flops`.
    """

    def __init__(
        self, path: Path | None, previous_rows: Sequence[dict[str, Any]], flops: ModelFlops | None = None
    ) -> None:
        self.path, self._flops = path, flops
        self.rows = list(previous_rows)
        self.begin_stage()

    def begin_stage(self) -> None:
        """Do not count the time until now, in which a model was built, as that of a step."""
        self._last_step = time.monotonic()

    def row(
        self, metrics: Mapping[str, Any], step: TrainingStep, gradient_norm: float, result: StepResult
    ) -> dict[str, Any]:
        """The row of a step that has just ended."""
        now = time.monotonic()
        seconds, self._last_step = max(now - self._last_step, 1e-9), now
        row = {
            **metrics,
            "tokens": step.tokens,
            "gradient_norm": gradient_norm,
            "seconds": seconds,
            "tokens_per_second": step.tokens / seconds,
            "mfu": self._flops and self._flops.utilisation(step, seconds),
            "peak_memory": peak_memory(),
            "ring_bytes_inside": result.bytes_within_nodes,
            "ring_bytes_between": result.bytes_between_nodes,
        }
        if self.path is not None:
            self.rows.append(row)
        return row

    def write(self) -> None:
        """Write all rows so far, atomically."""
        if self.path is not None:
            with publish_file(self.path) as temporary:
                pq.write_table(pa.Table.from_pylist(self.rows, SCHEMA), temporary)


def read_previous(path: Path | None, done: int) -> list[dict[str, Any]]:
    """Rows of the first `done` steps; a file that is not such a table raises OutputError."""
    if path is None or not done or not path.exists():
        return []
    try:
        check_regular(path)
        table = pq.read_table(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise_read_error(error, path)
        received = str(error)[:80]
    else:
        if "step" in table.column_names and set(table.schema) <= set(SCHEMA):  # earlier versions have fewer
            return [row for row in table.to_pylist() if row["step"] <= done]
        received = ", ".join(table.column_names)[:80]
    raise OutputError(
        "is not a table of step metrics written by an earlier start of this run",
        path=path,
        expected=f"columns {', '.join(SCHEMA.names[:3])}, ...",
        received=received,
        remedy="remove it or name another file",
    )


def read_metrics(work: Path, done: int) -> list[dict[str, Any]] | None:
    """The first `done` lines of `metrics.jsonl` in a folder; None if they are not those of these steps."""
    path = work / METRICS_FILE
    try:
        lines = path.read_bytes().splitlines()[:done] if path.exists() else []
        metrics = [json.loads(line) for line in lines]
        steps = [line["step"] for line in metrics]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise_read_error(error, path)
        return None
    return metrics if steps == list(range(1, done + 1)) else None


def write_metrics(work: Path, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Write `metrics.jsonl` into a folder, atomically."""
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in metrics)
    with publish_file(work / METRICS_FILE) as temporary:
        temporary.write_text(text, encoding="utf-8")


def peak_memory() -> int:
    """Largest number of bytes this process has held: on its GPU, or in main memory if it has none."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
