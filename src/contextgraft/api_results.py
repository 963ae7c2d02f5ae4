"""What the public functions return."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextgraft.adapter.analysis.compare import AdapterDistance
from contextgraft.adapter.verify.checks import Check
from contextgraft.rope import settings
from contextgraft.rope.settings import RopeSettings


@dataclass(frozen=True)
class ExtractedAdapter:
    """One adapter that `extract` wrote; `sidecar` is its contextgraft.json.

    `energy` is the captured share of the squared norm of the linear weights' deltas, `error` the square root
    of the rest: the relative error.
    """

    path: Path
    rank: int
    energy: float
    error: float
    sidecar: dict[str, Any]


@dataclass(frozen=True)
class MergeResult:
    """A graft that `merge` wrote; `manifest` is its contextgraft.json, with a record for every tensor."""

    path: Path
    manifest: dict[str, Any]

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the tensors that a delta was added to."""
        return tuple(name for name, record in self.manifest["tensors"].items() if record["applied"])

    @property
    def requested_norm(self) -> float:
        """Frobenius norm of the delta over all tensors, before rounding."""
        return math.hypot(*(record["delta_norm"] for record in self.manifest["tensors"].values()))

    @property
    def survived_norm(self) -> float:
        """Frobenius norm of what the weights changed by, after rounding to the target's dtype."""
        return math.hypot(*(record["survived_norm"] for record in self.manifest["tensors"].values()))

    @property
    def rope(self) -> RopeSettings:
        """Rotary settings of the graft."""
        return settings.from_json(self.manifest["rope"]["after"])


@dataclass(frozen=True)
class Verification:
    """The checks of `verify`; true in a condition if all of them hold."""

    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """Whether every check holds."""
        return all(check.holds for check in self.checks)

    def __bool__(self) -> bool:
        return self.holds


@dataclass(frozen=True)
class Comparison:
    """Distances between two adapters: of each tensor, and `total` of all tensors as one vector."""

    tensors: tuple[AdapterDistance, ...]
    total: AdapterDistance
