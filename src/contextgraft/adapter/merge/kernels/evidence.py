"""What a merge records of one tensor: digests and norms, added up tile by tile."""

import math
from dataclasses import dataclass, field

from contextgraft.checkpoint.digest import Hasher, hasher
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.errors import CheckpointError


@dataclass(frozen=True)
class TensorEvidence:
    """Evidence for one tensor: digests, and norms of the requested delta and of the delta after rounding.

    `kept` is the retained share: the delta after rounding, projected on the requested one.
    """

    applied: bool
    delta_norm: float
    survived_norm: float
    kept: float
    digest_before: str
    digest_after: str


def copied_evidence(digest: str) -> TensorEvidence:
    """The evidence for a tensor that stays as it is."""
    return TensorEvidence(False, 0.0, 0.0, 1.0, digest, digest)


@dataclass
class Measures:
    """Hashes of the bytes before and after, and sums over the tiles so far."""

    before: Hasher = field(default_factory=hasher)
    after: Hasher = field(default_factory=hasher)
    requested_squares: float = 0.0
    applied_squares: float = 0.0
    inner: float = 0.0

    def add(self, requested_squares: float, applied_squares: float, inner: float) -> None:
        """Count a tile: squared norms of the requested and the applied delta, and their inner product."""
        self.requested_squares += requested_squares
        self.applied_squares += applied_squares
        self.inner += inner

    def evidence(self, target: ModelFolder, name: str) -> TensorEvidence:
        """The evidence for the tensor `name` of `target`; sums that are not finite raise CheckpointError."""
        info = target[name]
        if not math.isfinite(self.requested_squares + self.applied_squares + self.inner):
            raise CheckpointError(
                f"tensor {name!r} plus the delta is not finite",
                path=target.path / info.shard,
                expected=f"finite weights that {info.dtype} can hold",
            )
        kept = self.inner / self.requested_squares if self.requested_squares else 1.0
        norms = math.sqrt(self.requested_squares), math.sqrt(self.applied_squares)
        return TensorEvidence(True, *norms, kept, self.before.hexdigest(), self.after.hexdigest())
