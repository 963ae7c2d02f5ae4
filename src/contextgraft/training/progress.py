"""Progress for people: a line every few seconds."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from contextgraft.training.schedule import Step

INTERVAL = 5.0  # seconds
Row = TypeVar("Row")


def told(rows: Iterable[Row], tell: Callable[[str], None], stop: Callable[[], bool]) -> Iterator[Row]:
    """The same rows; says now and then how many sequences there are so far, and ends when `stop` says so."""
    last = time.monotonic()
    for number, row in enumerate(rows, 1):
        if stop():
            raise KeyboardInterrupt
        if time.monotonic() - last >= INTERVAL:
            last = time.monotonic()
            tell(f"{number:,} sequences so far")
        yield row


class Progress:
    """Counts tokens; tells loss, gradient, speed, memory, bytes between nodes and the time that is left."""

    def __init__(self, plan: Sequence[Step], done: int, tell: Callable[[str], None]) -> None:
        self.plan, self.tell = plan, tell
        self.left = sum(step.length * step.rows for step in plan[done:])
        self.seen = 0
        self.begun = self.told = time.monotonic()

    def step(self, step: Step, row: Mapping[str, Any]) -> None:
        """Note one step by its row of the meter; speak if it is time or the last."""
        self.seen += step.length * step.rows
        self.left -= step.length * step.rows
        now = time.monotonic()
        if now - self.told < INTERVAL and step.number + 1 < len(self.plan):
            return
        self.told = now
        speed = self.seen / max(now - self.begun, 1e-9)
        answers = "" if row["accuracy"] is None else f"  answers {row['accuracy']:6.1%}"
        between = row["ring_bytes_between"]
        sent = f"  {between / 2**20:,.1f} MiB between nodes" if between else ""
        minutes, seconds = divmod(round(self.left / speed), 60)
        self.tell(
            f"step {step.number + 1}/{len(self.plan)}  stage {step.stage + 1}  length {step.length}  "
            f"loss {row['loss']:.3f}{answers}  gradient {row['gradient_norm']:.2g}  {speed:,.0f} tokens/s  "
            f"{row['peak_memory'] / 2**30:.2f} GiB{sent}  {minutes}:{seconds:02d} left"
        )
