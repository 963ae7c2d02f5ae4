"""Step metrics as TensorBoard event files, if that package is installed."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from contextgraft.errors import InputError

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


class TensorBoardWriter:
    """Writes one point per step; a resumed run hides the points of the steps that it repeats."""

    def __init__(self, folder: Path, done: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # noqa: PLC0415 - optional

        self._writer = SummaryWriter(str(folder), purge_step=done + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row of `StepMetrics`; missing values are left out."""
        for name, tag in SCALARS.items():
            if row[name] is not None:
                self._writer.add_scalar(tag, row[name], row["step"])

    def flush(self) -> None:
        """Make all points so far readable."""
        self._writer.flush()


def check_installed() -> None:
    """Raise InputError if TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        raise InputError("TensorBoard is not installed", remedy="pip install 'contextgraft[tensorboard]'")
