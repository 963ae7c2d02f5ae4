"""Progress for people: a line every few seconds."""

import time
from collections.abc import Callable, Sequence

from contextgraft.training.schedule import Step

INTERVAL = 5.0  # seconds


class Progress:
    """Counts tokens and tells loss, accuracy of answers, speed and the time that is left."""

    def __init__(self, plan: Sequence[Step], done: int, tell: Callable[[str], None]) -> None:
        self.plan, self.tell = plan, tell
        self.left = sum(step.length * step.rows for step in plan[done:])
        self.seen = 0
        self.begun = self.told = time.monotonic()

    def step(self, step: Step, loss: float, accuracy: float | None) -> None:
        """Note one step; speak if it is time or the last."""
        self.seen += step.length * step.rows
        self.left -= step.length * step.rows
        now = time.monotonic()
        if now - self.told < INTERVAL and step.number + 1 < len(self.plan):
            return
        self.told = now
        speed = self.seen / max(now - self.begun, 1e-9)
        answers = "" if accuracy is None else f"  answers {accuracy:6.1%}"
        minutes, seconds = divmod(round(self.left / speed), 60)
        self.tell(
            f"step {step.number + 1}/{len(self.plan)}  stage {step.stage + 1}  length {step.length}  "
            f"loss {loss:.3f}{answers}  {speed:,.0f} tokens/s  {minutes}:{seconds:02d} left"
        )
