"""Step metrics as a run of MLflow, by its own package.

The server is that of the package's environment variables (MLFLOW_TRACKING_URI and others).
"""

import time
from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from contextgraft.training.reporting.trackers.base import MetricTracker, TrackedRun, present

MOST = 1000  # metrics in one message, of MLflow's protocol


class MlflowTracker(MetricTracker):
    """A run in an experiment; a resumed run is the same one. Metrics have the names of the Parquet columns.

    Rows are sent when the state of the training is saved. Rows that could not be sent are sent the next time.
    """

    def __init__(self, experiment: str, run: TrackedRun) -> None:
        from mlflow import MlflowClient  # noqa: PLC0415 - optional

        self._client = MlflowClient()
        self._waiting: list[Any] = []
        if run.run_id is None:
            found = self._client.get_experiment_by_name(experiment)
            experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
            self.run_id = self._client.create_run(experiment_id, run_name=run.name).info.run_id
            self._client.log_dict(self.run_id, dict(run.recipe), "recipe.json")
        else:
            self.run_id = run.run_id
            self._client.update_run(self.run_id, status="RUNNING")

    @override
    def write(self, row: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415 - optional

        now, step = int(time.time() * 1000), row["step"]
        self._waiting += [Metric(name, value, now, step) for name, value in present(row).items()]

    @override
    def flush(self) -> None:
        while self._waiting:
            self._client.log_batch(self.run_id, metrics=self._waiting[:MOST])
            del self._waiting[:MOST]

    @override
    def close(self, *, finished: bool) -> None:
        self.flush()
        self._client.set_terminated(self.run_id, "FINISHED" if finished else "KILLED")
