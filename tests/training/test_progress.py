"""The line on the console: speed and time left are those of steps."""

import time

import pytest

from contextgraft.config.training import Recipe
from contextgraft.training.reporting.progress import SilentReporter, StepProgress
from contextgraft.training.schedule import training_steps

from .conftest import RECIPE


class Lines(SilentReporter):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, line: str) -> None:
        self.lines.append(line)


def test_the_time_in_which_a_model_is_built_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    steps = training_steps(Recipe.model_validate(RECIPE))
    reporter = Lines()
    meter = StepProgress(steps, 0, reporter)
    now[0] += 300  # of building
    first, second, *rest = steps
    row = {
        "accuracy": None, "mfu": None, "ring_bytes_between": 0, "loss": 1.0, "gradient_norm": 1.0,
        "peak_memory": 0, "seconds": 2.0,
    }  # fmt: skip
    meter.update(first, row)
    now[0] += 60
    meter.update(second, row | {"seconds": 4.0})
    done = first.tokens + second.tokens
    speed, left = done / 6, round(sum(step.tokens for step in rest) / (done / 6))
    assert f"{first.tokens / 2:,.0f} tokens/s" in reporter.lines[0]
    assert f"{speed:,.0f} tokens/s" in reporter.lines[-1]
    assert f"{left // 60}:{left % 60:02d} left" in reporter.lines[-1]
