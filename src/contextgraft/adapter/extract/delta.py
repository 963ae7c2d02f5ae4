"""Donor minus base of one tensor, in float32 tiles of rows, hashed as it is first read."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from contextgraft.adapter.compute.numeric import norm_squared
from contextgraft.adapter.compute.tensor_pool import Buffers
from contextgraft.adapter.compute.tiles import DELTA_TILE, tile_rows
from contextgraft.checkpoint.digest import Hasher, hasher, tensor_digest
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.checkpoint.reader import DTYPES, read_bytes
from contextgraft.checkpoint.tensor_bytes import expect_bytes
from contextgraft.errors import CheckpointError
from contextgraft.formats.tensor_names import holds_positions


@dataclass(frozen=True)
class DeltaMeasures:
    """Results of the first pass over a tensor pair: the base's norm, digests of the stored bytes."""

    base_norm: float
    base_digest: str
    donor_digest: str


@dataclass
class Delta:
    """Tiles of donor minus base as a matrix; a tile is valid until the next one is requested.

    The first `keep_bytes` of the delta, in whole tiles, are kept for later passes, the rest is read again.
    `donor_rows` has the donor's row for each row of the base, -1 for none (a delta of zero);
    None where rows correspond as they stand. `first` and `count` select rows; `digests` are those of both
    sides' bytes up to there.
    """

    base: ModelFolder
    donor: ModelFolder
    name: str
    buffers: Buffers
    keep_bytes: int
    donor_rows: Sequence[int] | None = None
    first: int = 0
    count: int | None = None
    digests: tuple[Hasher, Hasher] = field(default_factory=lambda: (hasher(), hasher()))
    _measure: DeltaMeasures | None = field(default=None, init=False)

    @property
    def rows(self) -> int:
        """The number of selected rows; all of a table of positions that is longer in the donor."""
        if self.count is not None:
            return self.count
        sides = self.base[self.name].matrix[0], self.donor[self.name].matrix[0]
        return max(sides) if holds_positions(self.name) else sides[0]

    @property
    def columns(self) -> int:
        """Number of elements in one row of the matrix."""
        return self.base[self.name].matrix[1]

    @property
    def measure(self) -> DeltaMeasures:
        """Results of the first pass, which must be complete."""
        assert self._measure is not None
        return self._measure

    def tiles(self) -> Iterator[torch.Tensor]:
        """Float32 tiles [rows, columns], top to bottom. Weights that are not finite raise CheckpointError."""
        if self._measure is None:
            return self._first_pass()
        return self._later_pass()

    def experts(self) -> "Iterator[Delta]":
        """The delta of every expert of a stack, each read completely before the next one is requested.

        This delta's own measures are complete after the last one.
        """
        experts, rows = self.base[self.name].shape[:2]
        norms: list[float] = []
        for expert in range(experts):
            delta = replace(self, first=expert * rows, count=rows)
            yield delta
            norms.append(delta.measure.base_norm)
        self._measure = replace(delta.measure, base_norm=math.hypot(*norms))

    def squares(self) -> float:
        """The squared Frobenius norm, in a pass of its own."""
        return math.fsum(norm_squared(tile) for tile in self.tiles())

    def _first_pass(self) -> Iterator[torch.Tensor]:
        digests = self.digests
        base_squares = sums = 0.0
        for start, stop in self._spans(0):
            base = self._base(start, stop, digests[0])
            base_squares += norm_squared(base)
            tile = self._minus(base, start, stop, digests[1])
            sums += float(tile.sum())
            yield tile
        if not math.isfinite(base_squares + sums):
            folder = self.donor if math.isfinite(base_squares) else self.base
            raise CheckpointError(
                f"tensor {self.name!r} holds NaN or infinite weights",
                path=folder.path / folder[self.name].shard,
            )
        aligned = self.donor_rows is not None
        donor_digest = tensor_digest(self.donor, self.name) if aligned else digests[1].hexdigest()
        self._measure = DeltaMeasures(math.sqrt(base_squares), digests[0].hexdigest(), donor_digest)

    def _later_pass(self) -> Iterator[torch.Tensor]:
        kept = self._kept_rows()
        for start, stop in self._spans(0, kept):
            yield self._tile_memory(start, stop)
        for start, stop in self._spans(kept):
            yield self._minus(self._base(start, stop), start, stop)

    def _spans(self, begin: int, end: int | None = None) -> Iterator[tuple[int, int]]:
        """(first row, first row of the next) of each tile."""
        end = (self.rows if end is None else end) if self.columns else 0
        step = tile_rows(self.columns, DELTA_TILE)
        for start in range(begin, end, step):
            yield start, min(start + step, end)

    def _kept_rows(self) -> int:
        """Rows of the complete tiles that fit into `keep_bytes`."""
        tile = tile_rows(self.columns, DELTA_TILE)
        return min(self.rows, self.keep_bytes // (4 * tile * max(self.columns, 1)) * tile)

    def _tile_memory(self, start: int, stop: int) -> torch.Tensor:
        """Memory for a tile: of its own if it is kept, else that of the tile before."""
        kept = self._kept_rows()
        if stop <= kept:
            whole = self.buffers.floats("kept", kept * self.columns)
            return whole.view(kept, self.columns)[start:stop]
        return self.buffers.floats("tile", (stop - start) * self.columns).view(-1, self.columns)

    def _base(self, start: int, stop: int, digest: Hasher | None = None) -> torch.Tensor:
        out = self.buffers.floats("base", (stop - start) * self.columns).view(-1, self.columns)
        known = max(start, min(stop, self.base[self.name].matrix[0] - self.first))
        if known > start:
            self._fill(out[: known - start], self.base, start, known, digest)
        out[known - start :].zero_()
        return out

    def _minus(self, base: torch.Tensor, start: int, stop: int, digest: Hasher | None = None) -> torch.Tensor:
        """The donor's rows minus the given rows of the base; zero for rows without a partner."""
        out = self._tile_memory(start, stop)
        if self.donor_rows is None:
            return self._fill(out, self.donor, start, stop, digest).sub_(base)
        out.copy_(base)
        for position, first, count in runs(self.donor_rows[start:stop]):
            self._fill(out[position : position + count], self.donor, first, first + count, None)
        return out.sub_(base)

    def _fill(
        self, out: torch.Tensor, folder: ModelFolder, start: int, stop: int, digest: Hasher | None
    ) -> torch.Tensor:
        """Rows of one side in float32."""
        info = folder[self.name]
        row_bytes = info.bytes // max(info.matrix[0], 1)
        start, stop = start + self.first, stop + self.first
        buffer = self.buffers.bytes("raw", (stop - start) * row_bytes)
        raw = read_bytes(folder, info, start * row_bytes, stop * row_bytes, buffer)
        expect_bytes(folder, info, stop * row_bytes, (2 * stop - start) * row_bytes)
        if digest is not None:
            digest.update(raw.numpy().data)
        return out.copy_(raw.view(DTYPES[info.dtype]).view(-1, self.columns))


def runs(rows: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(position, first row, count) of each run of consecutive rows; -1 (no row) is left out."""
    begin = 0
    for position in range(1, len(rows) + 1):
        if position < len(rows) and rows[position] == rows[position - 1] + 1 and rows[position - 1] >= 0:
            continue
        if rows[begin] >= 0:
            yield begin, rows[begin], position - begin
        begin = position
