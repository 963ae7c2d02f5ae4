"""Step metrics as a run of Weights & Biases, by its own package.

Account, server, folder and offline mode are those of the package's environment variables (WANDB_API_KEY,
WANDB_BASE_URL, WANDB_DIR, WANDB_MODE).
"""

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from contextgraft.training.reporting.trackers.base import MetricTracker, TrackedRun, present


class WandbTracker(MetricTracker):
    """A run in a project; a resumed run is the same one. Metrics have the names of the Parquet columns."""

    def __init__(self, project: str, run: TrackedRun) -> None:
        import wandb  # noqa: PLC0415 - optional

        self._run = wandb.init(
            project=project,
            name=run.name,
            id=run.run_id,
            resume="allow",
            config=dict(run.recipe),
            settings=wandb.Settings(console="off"),  # the run's own lines are not sent
        )
        self.run_id = self._run.id
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    @override
    def write(self, row: Mapping[str, Any]) -> None:
        self._run.log(present(row))

    @override
    def flush(self) -> None:
        """The package sends rows by itself."""

    @override
    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
