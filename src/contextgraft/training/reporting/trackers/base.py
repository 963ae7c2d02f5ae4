"""What a tracker of metrics is told of a run, and what it has to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class TrackedRun:
    """A run that is about to begin or to go on.

    `done` is the number of steps that earlier starts have done. `run_id` is what the tracker called the run
    then, None if it is new.
    """

    name: str
    recipe: Mapping[str, Any]
    done: int = 0
    run_id: str | None = None


class MetricTracker(Protocol):
    """One program's run. `run_id` is its name for it, if it has one."""

    run_id: str | None

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row of `StepMetrics`; missing values are left out."""

    def flush(self) -> None:
        """Make all rows so far readable."""

    def close(self, *, finished: bool) -> None:
        """End the run, all of whose steps are done if it is `finished`."""


def present(row: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a row that are not missing."""
    return {name: value for name, value in row.items() if value is not None}
