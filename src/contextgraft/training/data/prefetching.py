"""Batches made ahead: the next one in a thread, while a step computes."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.schedule import TrainingStep


def prefetched(
    make: Callable[[TrainingStep], TokenBatch], steps: Sequence[TrainingStep]
) -> Generator[TokenBatch]:
    """The batches of some steps in turn; when one is taken, the next is begun.

    An error of `make` is raised where its batch would be taken. The thread ends when the iterator is closed,
    after the batch that it makes.
    """
    with ThreadPoolExecutor(1) as thread:
        ahead = [thread.submit(make, step) for step in steps[:1]]
        for following in range(1, len(steps) + 1):
            batch = ahead.pop().result()
            ahead = [thread.submit(make, step) for step in steps[following : following + 1]]
            yield batch
