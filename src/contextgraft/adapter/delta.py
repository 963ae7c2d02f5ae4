"""Donor minus base of one tensor, in float32 tiles of rows, measured and hashed as it is first read."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from contextgraft.adapter.svd import TILE_ROWS
from contextgraft.checkpoint.layout import ModelFolder
from contextgraft.checkpoint.reader import read_rows
from contextgraft.errors import CheckpointError


@dataclass(frozen=True)
class Measure:
    """What one whole pass over a tensor pair tells: Frobenius norms, and digests of the stored bytes."""

    delta_norm: float
    base_norm: float
    base_digest: str
    donor_digest: str

    @property
    def relative(self) -> float | None:
        """Norm of the delta as a share of the base's; None where the base is zero."""
        return self.delta_norm / self.base_norm if self.base_norm else None


@dataclass
class Delta:
    """Tiles of donor minus base; a delta of at most `keep_bytes` stays in memory after the first pass."""

    base: ModelFolder
    donor: ModelFolder
    name: str
    keep_bytes: int
    _kept: torch.Tensor | None = field(default=None, init=False)

    def tiles(self) -> Iterator[torch.Tensor]:
        """Float32 tiles of TILE_ROWS rows, top to bottom."""
        if self._kept is not None:
            return iter(torch.split(self._kept, TILE_ROWS))
        return (donor.float() - base.float() for base, donor in self._pairs())

    def measure(self) -> Measure:
        """Read the pair once. Weights that are not finite raise CheckpointError."""
        if self.base[self.name].numel * 4 <= self.keep_bytes:
            self._kept = torch.empty(self.base[self.name].shape)
        digests = hashlib.sha256(), hashlib.sha256()
        squares = base_squares = 0.0
        row = 0
        for base, donor in self._pairs():
            for digest, tile in zip(digests, (base, donor), strict=True):
                digest.update(tile.reshape(-1).view(torch.uint8).numpy().data)
            base_tile = base.float()
            tile = donor.float() - base_tile
            squares += norm_squared(tile)
            base_squares += norm_squared(base_tile)
            if self._kept is not None:
                self._kept[row : row + len(tile)] = tile
            row += len(tile)
        if not math.isfinite(squares + base_squares):
            raise self._not_finite(base_squares)
        return Measure(
            math.sqrt(squares), math.sqrt(base_squares), digests[0].hexdigest(), digests[1].hexdigest()
        )

    def _pairs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        rows = self.base[self.name].rows
        for start in range(0, rows, TILE_ROWS):
            stop = min(start + TILE_ROWS, rows)
            yield read_rows(self.base, self.name, start, stop), read_rows(self.donor, self.name, start, stop)

    def _not_finite(self, base_squares: float) -> CheckpointError:
        folder = self.donor if math.isfinite(base_squares) else self.base
        return CheckpointError(
            f"tensor {self.name!r} holds NaN or infinite weights", path=folder.path / folder[self.name].shard
        )


def norm_squared(tensor: torch.Tensor) -> float:
    """Square of the Frobenius norm, summed in float64 a few rows at a time, for that takes a copy."""
    pieces = torch.split(tensor, 32)
    return math.fsum(float(torch.linalg.vector_norm(piece, dtype=torch.float64)) ** 2 for piece in pieces)
