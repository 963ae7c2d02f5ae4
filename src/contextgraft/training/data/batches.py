"""Batches as a function of (seed, step): a resumed run sees what an undisturbed one sees."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from contextgraft.config.training import Recipe
from contextgraft.training.data.sources import KINDS, Context, choose
from contextgraft.training.schedule import Step


class Batch(NamedTuple):
    """Token ids (rows, length) int64 and loss weights (rows, length) float32."""

    ids: torch.Tensor
    weights: torch.Tensor


class Batches:
    """All batches of a run, whose steps are `plan`; nothing is kept from one to the next."""

    def __init__(self, recipe: Recipe, context: Context, seed: int, plan: Sequence[Step]) -> None:
        self.sources = recipe.data
        self.makers = [KINDS[source.kind](source, context) for source in recipe.data]
        self.seed = seed
        self.before: dict[int, int] = {}  # by step: rows of its length that its source gave in earlier steps
        given: Counter[tuple[int, int]] = Counter()
        for step in plan:
            key = self._source(step, self._rng(step)), step.length
            self.before[step.number] = given[key]
            given[key] += step.rows

    def _rng(self, step: Step) -> np.random.Generator:
        return np.random.default_rng([self.seed, step.number])

    def _source(self, step: Step, rng: np.random.Generator) -> int:
        """Which of the sources that take this length it is."""
        fit = [
            index
            for index, source in enumerate(self.sources)
            if source.lengths is None or step.length in source.lengths
        ]
        return fit[choose([self.sources[index].weight for index in fit], rng)]

    def at(self, step: Step) -> Batch:
        """The batch of one step; all its rows come from one source."""
        rng = self._rng(step)
        make, first = self.makers[self._source(step, rng)], self.before[step.number]
        documents = [make(rng, step.length, first + row) for row in range(step.rows)]
        return Batch(
            torch.tensor([document.ids for document in documents], dtype=torch.int64),
            torch.tensor([document.weights for document in documents], dtype=torch.float32),
        )
