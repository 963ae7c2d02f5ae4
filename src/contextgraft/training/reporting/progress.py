"""Progress for people: a line every few seconds."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from typing_extensions import override

from contextgraft.training.schedule import TrainingStep

INTERVAL = 5.0  # seconds
Row = TypeVar("Row")


class TrainingReporter(Protocol):
    """The caller's side of a run: receives its status lines and can ask it to stop."""

    def message(self, line: str) -> None:
        """Receive one status line."""

    def stop_requested(self) -> bool:
        """Whether the run should save its state and end; it checks after every step."""


class SilentReporter(TrainingReporter):
    """Drops all lines and never asks to stop."""

    @override
    def message(self, line: str) -> None:
        pass

    @override
    def stop_requested(self) -> bool:
        return False


def count_rows(rows: Iterable[Row], reporter: TrainingReporter, what: str = "sequences") -> Iterator[Row]:
    """Pass the rows through and report their number every few seconds.

    Raises KeyboardInterrupt when the reporter asks to stop.
    """
    reported = time.monotonic()
    for number, row in enumerate(rows, 1):
        if reporter.stop_requested():
            raise KeyboardInterrupt
        if time.monotonic() - reported >= INTERVAL:
            reported = time.monotonic()
            reporter.message(f"{number:,} {what} so far")
        yield row


class StepProgress:
    """Reports loss, gradient norm, speed, MFU, memory, bytes between nodes and the remaining time."""

    def __init__(self, steps: Sequence[TrainingStep], done: int, reporter: TrainingReporter) -> None:
        self._steps, self._reporter = steps, reporter
        self._remaining = sum(step.tokens for step in steps[done:])
        self._trained, self._seconds = 0, 0.0
        self._reported = time.monotonic()

    def update(self, step: TrainingStep, row: Mapping[str, Any]) -> None:
        """Count one step by its row of `StepMetrics`; report if it is the last or enough time has passed.

        Speed and remaining time are those of steps: the building of models is not counted.
        """
        self._trained, self._seconds = self._trained + step.tokens, self._seconds + row["seconds"]
        self._remaining -= step.tokens
        now = time.monotonic()
        if now - self._reported < INTERVAL and step.number + 1 < len(self._steps):
            return
        self._reported = now
        speed = self._trained / self._seconds
        accuracy = "" if row["accuracy"] is None else f"  answers {row['accuracy']:6.1%}"
        mfu = "" if row["mfu"] is None else f"  MFU {row['mfu']:.1%}"
        between_nodes = row["ring_bytes_between"]
        sent = f"  {between_nodes / 2**20:,.1f} MiB between nodes" if between_nodes else ""
        minutes, seconds = divmod(round(self._remaining / speed), 60)
        self._reporter.message(
            f"step {step.number + 1}/{len(self._steps)}  stage {step.stage + 1}  length {step.length}  "
            f"loss {row['loss']:.3f}{accuracy}  gradient {row['gradient_norm']:.2g}  {speed:,.0f} tokens/s"
            f"{mfu}  {row['peak_memory'] / 2**30:.2f} GiB{sent}  {minutes}:{seconds:02d} left"
        )
