"""Which source the batch of each step is from, and how many rows that is, from the recipe alone."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from contextgraft.config.training import Recipe
from contextgraft.config.training.data import AnySource
from contextgraft.training.schedule import TrainingStep, training_steps


def step_rng(seed: int, step: TrainingStep) -> np.random.Generator:
    """The random numbers of a step; the first is the choice of its source."""
    return np.random.default_rng([seed, step.number])


def choose_source(sources: Sequence[AnySource], step: TrainingStep, rng: np.random.Generator) -> int:
    """Index of the source of a step, drawn by weight from those that take its length."""
    eligible = [
        index
        for index, source in enumerate(sources)
        if source.lengths is None or step.length in source.lengths
    ]
    return eligible[weighted_choice([sources[index].weight for index in eligible], rng)]


def weighted_choice(weights: Sequence[float], rng: np.random.Generator) -> int:
    """A random index, drawn with these weights."""
    return int(rng.choice(len(weights), p=np.asarray(weights) / sum(weights)))


def first_rows(
    sources: Sequence[AnySource], seed: int, steps: Sequence[TrainingStep]
) -> Iterator[tuple[TrainingStep, int, int]]:
    """Of each step the index of its source, and that source's rows of its length in the steps before it."""
    rows: Counter[tuple[int, int]] = Counter()
    for step in steps:
        source = choose_source(sources, step, step_rng(seed, step))
        yield step, source, rows[source, step.length]
        rows[source, step.length] += step.rows


def needed_rows(recipe: Recipe) -> Counter[tuple[AnySource, int]]:
    """How many sequences of each length a run takes from each source; equal sources have the same ones."""
    needed: Counter[tuple[AnySource, int]] = Counter()
    for step, index, first in first_rows(recipe.data, recipe.seed, training_steps(recipe)):
        needed[recipe.data[index], step.length] = max(
            needed[recipe.data[index], step.length], first + step.rows
        )
    return needed
