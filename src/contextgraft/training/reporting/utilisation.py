"""Model FLOPs utilisation (MFU): operations of the model a second, as a share of what the devices could do.

Chowdhery et al. 2022 (arXiv 2204.02311), appendix B: recomputed activations do not count.
"""

from collections.abc import Callable
from dataclasses import dataclass

from contextgraft.training.schedule import TrainingStep


@dataclass(frozen=True)
class ModelFlops:
    """What MFU is computed from.

    `of_sequence` gives the operations of one sequence, forward and backward, by its length in tokens. `peak`
    are operations a second of all devices of the run together.
    """

    of_sequence: Callable[[int], int]
    peak: float

    def utilisation(self, step: TrainingStep, seconds: float) -> float:
        """MFU of a step that took so many seconds, as a fraction."""
        return step.rows * self.of_sequence(step.length) / (seconds * self.peak)
