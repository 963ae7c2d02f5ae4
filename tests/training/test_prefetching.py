"""Batches made ahead, in a thread."""

import threading
from contextlib import closing

import pytest
import torch

from contextgraft.config.training import Recipe
from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.data.prefetching import prefetched
from contextgraft.training.schedule import TrainingStep, training_steps

from .conftest import RECIPE

STEPS = training_steps(Recipe.model_validate(RECIPE))


def numbered(step: TrainingStep) -> TokenBatch:
    number = torch.tensor([[step.number]])
    return TokenBatch(number, number)


def test_the_next_batch_is_begun_when_one_is_taken() -> None:
    begun = [threading.Event() for _ in STEPS]
    made: list[int] = []

    def make(step: TrainingStep) -> TokenBatch:
        begun[step.number].set()
        made.append(step.number)
        return numbered(step)

    with closing(prefetched(make, STEPS)) as batches:
        for number, batch in enumerate(batches):
            assert batch.ids.item() == number
            if number + 1 < len(STEPS):
                assert begun[number + 1].wait(60)
                assert len(made) <= number + 2  # no more than one ahead
    assert made == [step.number for step in STEPS]


def test_an_error_belongs_to_its_own_step_and_no_thread_is_left() -> None:
    def make(step: TrainingStep) -> TokenBatch:
        if step.number == 2:
            raise KeyboardInterrupt
        return numbered(step)

    threads = threading.active_count()
    with closing(prefetched(make, STEPS)) as batches:
        assert [next(batches).ids.item(), next(batches).ids.item()] == [0, 1]
        with pytest.raises(KeyboardInterrupt):
            next(batches)
    with closing(prefetched(make, STEPS)) as batches:
        next(batches)
    assert threading.active_count() == threads
    assert list(prefetched(make, [])) == []
