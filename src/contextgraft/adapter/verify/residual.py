"""The residual of each delta after an adapter, computed from base and donor."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from contextgraft.adapter.compute.numeric import norm_squared
from contextgraft.adapter.compute.tensor_pool import Buffers
from contextgraft.adapter.extract.delta import Delta, DeltaMeasures
from contextgraft.adapter.extract.model_pair import ModelPair
from contextgraft.adapter.lora.adapter import Adapter


@dataclass(frozen=True)
class Residual:
    """Digests of a tensor's bytes, the norm of its delta, and the norm of delta minus adapter."""

    measure: DeltaMeasures
    norm: float
    remaining_norm: float

    @property
    def error(self) -> float:
        """The remaining norm relative to the delta's."""
        return self.remaining_norm / self.norm if self.norm else 0.0


@dataclass(frozen=True)
class ResidualPass:
    """One pass over both models; `advance` is called with the number of bytes read."""

    adapter: Adapter
    models: ModelPair
    advance: Callable[[int], object]
    residuals: dict[str, Residual] = field(default_factory=dict)

    def run(self, name: str, buffers: Buffers) -> None:
        """Measure one tensor of the pair, also where the adapter has no entry for it."""
        models = self.models
        delta = Delta(models.base, models.donor, name, buffers, 0, models.rows_for(name))
        carried = self.adapter.delta(name, 1.0) if name in self.adapter.entries else None
        squares, remaining, row = [], [], 0
        for tile in delta.tiles():
            squares.append(norm_squared(tile))
            if carried is not None:
                held = buffers.floats("held", tile.numel()).view_as(tile)
                remaining.append(norm_squared(carried.tile(tile, row, row + len(tile), held).sub(tile)))
            row += len(tile)
        squares_left = remaining if carried is not None else squares
        self.residuals[name] = Residual(
            delta.measure, math.sqrt(math.fsum(squares)), math.sqrt(math.fsum(squares_left))
        )
        self.advance(models.base[name].bytes + models.donor[name].bytes)
