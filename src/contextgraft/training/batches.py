"""Batches as a function of (seed, step): a resumed run sees what an undisturbed one sees."""

from typing import NamedTuple

import numpy as np
import torch

from contextgraft.config.training import Recipe
from contextgraft.training.kinds import KINDS, Context, choose
from contextgraft.training.schedule import Step


class Batch(NamedTuple):
    """Token ids (rows, length) int64 and loss weights (rows, length) float32."""

    ids: torch.Tensor
    weights: torch.Tensor


class Batches:
    """All batches of a run; nothing is kept from one to the next."""

    def __init__(self, recipe: Recipe, context: Context, seed: int) -> None:
        self.sources = recipe.data
        self.makers = [KINDS[source.kind](source, context) for source in recipe.data]
        self.seed = seed

    def at(self, step: Step) -> Batch:
        """The batch of one step; all its rows come from one source."""
        rng = np.random.default_rng([self.seed, step.number])
        fit = [
            index
            for index, source in enumerate(self.sources)
            if source.lengths is None or step.length in source.lengths
        ]
        make = self.makers[fit[choose([self.sources[index].weight for index in fit], rng)]]
        documents = [make(rng, step.length, step.first + row) for row in range(step.rows)]
        return Batch(
            torch.tensor([document.ids for document in documents], dtype=torch.int64),
            torch.tensor([document.weights for document in documents], dtype=torch.float32),
        )
