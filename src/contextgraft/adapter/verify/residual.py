"""What an adapter leaves of each delta: computed from base and donor, whoever wrote the adapter."""

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
    """What one pass over a tensor told: digests, the delta's norm and what the adapter leaves of it."""

    measure: DeltaMeasures
    norm: float
    rest: float

    @property
    def error(self) -> float:
        """Norm of what is left as a share of the delta's."""
        return self.rest / self.norm if self.norm else 0.0


@dataclass(frozen=True)
class ResidualPass:
    """One reading of both models against the adapter; `advance` hears of bytes read."""

    adapter: Adapter
    models: ModelPair
    advance: Callable[[int], object]
    found: dict[str, Residual] = field(default_factory=dict)

    def run(self, name: str, buffers: Buffers) -> None:
        """Measure one tensor of the pair, whether the adapter carries it or not."""
        models = self.models
        delta = Delta(models.base, models.donor, name, buffers, 0, models.rows_for(name))
        carried = self.adapter.delta(name, 1.0) if name in self.adapter.entries else None
        squares, rest, row = [], [], 0
        for tile in delta.tiles():
            squares.append(norm_squared(tile))
            if carried is not None:
                held = buffers.floats("held", tile.numel()).view_as(tile)
                rest.append(norm_squared(carried.tile(tile, row, row + len(tile), held).sub(tile)))
            row += len(tile)
        left = rest if carried is not None else squares
        self.found[name] = Residual(delta.measure, math.sqrt(math.fsum(squares)), math.sqrt(math.fsum(left)))
        self.advance(models.base[name].bytes + models.donor[name].bytes)
