"""The trackers of a run: opened before it begins, told of every step, closed when it ends."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from contextgraft.checkpoint.atomic import write_json
from contextgraft.checkpoint.model_folder import read_json
from contextgraft.errors import CheckpointError, ContextgraftError, InputError, library_errors
from contextgraft.training.reporting.progress import TrainingReporter
from contextgraft.training.reporting.trackers.base import MetricTracker, TrackedRun
from contextgraft.training.reporting.trackers.mlflow_run import MlflowTracker
from contextgraft.training.reporting.trackers.tensorboard import TensorBoardTracker
from contextgraft.training.reporting.trackers.weights_and_biases import WandbTracker
from contextgraft.training.state import TRACKERS_FILE


class TrackerKind(NamedTuple):
    """A tracker by its package, the key in `KINDS`: title, what pip installs, and how it is opened."""

    title: str
    install: str
    open: Callable[[str, TrackedRun], MetricTracker]


KINDS = {
    "tensorboard": TrackerKind("TensorBoard", "'contextgraft[tensorboard]'", TensorBoardTracker),
    "wandb": TrackerKind("Weights & Biases", "wandb", WandbTracker),
    "mlflow": TrackerKind("MLflow", "mlflow", MlflowTracker),
}


class Trackers:
    """Opened trackers by kind; as a context manager it closes them.

    What one of them raises once it is open does not end the run: the reporter gets a line.
    """

    def __init__(self, trackers: Mapping[str, MetricTracker], reporter: TrainingReporter) -> None:
        self._trackers, self._reporter = trackers, reporter

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row of `StepMetrics`."""
        self._each(lambda tracker: tracker.write(row))

    def flush(self) -> None:
        """Make all rows so far readable."""
        self._each(lambda tracker: tracker.flush())

    def __enter__(self) -> Self:
        """Nothing: they are open."""
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        """End the runs: finished, unless an error or an interruption ends the block."""
        self._each(lambda tracker: tracker.close(finished=kind is None))

    def _each(self, act: Callable[[MetricTracker], None]) -> None:
        for name, tracker in self._trackers.items():
            try:
                with library_errors(f"{KINDS[name].title} does not take metrics", name, ContextgraftError):
                    act(tracker)
            except ContextgraftError as error:
                self._reporter.message(str(error))


def check_installed(names: Iterable[str]) -> None:
    """Raise InputError if the package of a requested tracker is not installed."""
    for name in names:
        if find_spec(name) is None:
            kind = KINDS[name]
            raise InputError(f"{kind.title} is not installed", remedy=f"pip install {kind.install}")


def open_trackers(
    requested: Mapping[str, str], run: TrackedRun, work: Path, reporter: TrainingReporter
) -> Trackers:
    """Open trackers by name; the value is a folder, a project or an experiment. InputError if one refuses.

    What they call the run is kept in `work`, so that the run goes on there when it is resumed.
    """
    path = work / TRACKERS_FILE
    known, opened = _read(path) if run.done else {}, {}
    for name, where in requested.items():
        previous = known.get(f"{name} {where}")
        with library_errors(f"{KINDS[name].title} cannot be used", where, InputError):
            opened[name] = KINDS[name].open(where, replace(run, run_id=previous))
    ids = {f"{name} {where}": opened[name].run_id for name, where in requested.items()}
    if any(ids.values()):
        write_json(path, known | {key: value for key, value in ids.items() if value is not None})
    return Trackers(opened, reporter)


def _read(path: Path) -> dict[str, str]:
    """Runs by tracker and place, of the file that an earlier start wrote; none if it cannot be read."""
    try:
        return read_json(path)
    except CheckpointError:
        return {}
