"""Step metrics as TensorBoard event files, if that package is installed."""

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from contextgraft.training.reporting.trackers.base import MetricTracker, TrackedRun, present

SCALARS = {
    "loss": "learnt/loss",
    "accuracy": "learnt/answers right",
    "gradient_norm": "learnt/gradient norm",
    "learning_rate": "schedule/learning rate",
    "length": "schedule/length",
    "theta": "schedule/theta",
    "tokens_per_second": "speed/tokens a second",
    "mfu": "speed/MFU",
    "peak_memory": "speed/peak memory, bytes",
    "ring_bytes_inside": "ring/bytes inside nodes",
    "ring_bytes_between": "ring/bytes between nodes",
}


class TensorBoardTracker(MetricTracker):
    """Writes one point per step; a resumed run hides the points of the steps that it repeats."""

    run_id = None

    def __init__(self, folder: str, run: TrackedRun) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # noqa: PLC0415 - optional

        self._writer = SummaryWriter(folder, purge_step=run.done + 1)

    @override
    def write(self, row: Mapping[str, Any]) -> None:
        for name, value in present(row).items():
            if name in SCALARS:
                self._writer.add_scalar(SCALARS[name], value, row["step"])

    @override
    def flush(self) -> None:
        self._writer.flush()

    @override
    def close(self, *, finished: bool) -> None:
        self._writer.close()
