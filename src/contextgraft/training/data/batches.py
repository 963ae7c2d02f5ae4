"""Batches as a function of (seed, step): a resumed run sees what an uninterrupted one sees."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from contextgraft.config.training import Recipe
from contextgraft.training.data.context import DataContext
from contextgraft.training.data.document_starts import restarting_positions
from contextgraft.training.data.skipping import SKIPPING, skipping_positions
from contextgraft.training.data.source_choice import choose_source, first_rows, step_rng
from contextgraft.training.data.sources import KINDS
from contextgraft.training.schedule import TrainingStep


class TokenBatch(NamedTuple):
    """Token ids (rows, length) int64 and loss weights (rows, length) float32.

    `positions` are position ids of the same shape where they skip or begin anew; else each row has 0, 1, 2,
    ... `starts`: in each row, where documents begin that do not see each other; positions begin anew there.
    """

    ids: torch.Tensor
    weights: torch.Tensor
    positions: torch.Tensor | None = None
    starts: tuple[tuple[int, ...], ...] | None = None


class BatchSampler:
    """All batches of a run with these steps; they do not depend on which batches were made before."""

    def __init__(
        self, recipe: Recipe, context: DataContext, seed: int, steps: Sequence[TrainingStep]
    ) -> None:
        self.sources = recipe.data
        self.samplers = [KINDS[source.kind](source, context) for source in recipe.data]
        self.seed, self.chunks = seed, recipe.pose_chunks
        rows = list(first_rows(recipe.data, seed, steps))
        self.first_rows = {step.number: first for step, _, first in rows}
        self._check_lengths({(source, step.length) for step, source, _ in rows})

    def _check_lengths(self, used: Iterable[tuple[int, int]]) -> None:
        """One document of each length from each source: what does not fit is told before the first step."""
        for index, length in sorted(used):
            if self.sources[index].kind != "documents":  # packed to any length
                self.samplers[index](np.random.default_rng([self.seed, length]), length)

    def batch(self, step: TrainingStep) -> TokenBatch:
        """The batch of one step; all its rows come from one source."""
        rng = step_rng(self.seed, step)
        sample, first = self.samplers[choose_source(self.sources, step, rng)], self.first_rows[step.number]
        documents = [sample(rng, step.length, first + row) for row in range(step.rows)]
        batch = TokenBatch(
            torch.tensor([document.ids for document in documents], dtype=torch.int64),
            torch.tensor([document.weights for document in documents], dtype=torch.float32),
            None if step.target_length is None else self._positions(step, step.target_length),
        )
        starts = tuple(document.starts for document in documents if document.starts is not None)
        if not starts:
            return batch
        return batch._replace(positions=restarting_positions(starts, step.length), starts=starts)

    def _positions(self, step: TrainingStep, target: int) -> torch.Tensor:
        """Position ids of a step, each row's its own; their random numbers are not those of the documents."""
        rng = np.random.default_rng([self.seed, step.number, *SKIPPING.encode()])
        rows = [skipping_positions(rng, step.length, target, self.chunks) for _ in range(step.rows)]
        return torch.from_numpy(np.stack(rows))
