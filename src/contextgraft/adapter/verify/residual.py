"""The residual of each delta after an adapter, computed from base and donor."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from contextgraft.adapter.compute.numeric import norm_squared
from contextgraft.adapter.compute.tensor_pool import Buffers
from contextgraft.adapter.extract.delta import Delta, DeltaMeasures
from contextgraft.adapter.extract.model_pair import ModelPair
from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.entries import AdapterEntry
from contextgraft.adapter.merge.fitted_entries import fitted_entries


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

    @cached_property
    def entries(self) -> dict[str, AdapterEntry]:
        """The adapter's entries by the base's names."""
        return fitted_entries(self.adapter, self.models.base)

    def run(self, name: str, buffers: Buffers) -> None:
        """Measure one tensor of the pair, also where the adapter has no entry for it."""
        models = self.models
        delta = Delta(models.base, models.donor, name, buffers, 0, models.rows_for(name))
        entry = self.entries.get(name)
        carried = None if entry is None else self.adapter.load(entry, 1.0)
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
