"""Run long tasks of rank 0 in a background thread, so that collectives of the other ranks do not time out."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import timedelta
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, TypeVar

import torch

from contextgraft.errors import ContextgraftError

T = TypeVar("T")


class TaskStatus(NamedTuple):
    """Whether a task is done, its result, and the message of an error of this package that it raised."""

    done: bool
    result: Any = None
    error: str | None = None


class WeightRequests:
    """Weights that a task in a thread asks for, one after the other, and that another thread gathers."""

    def __init__(self) -> None:
        self._names: SimpleQueue[str | None] = SimpleQueue()
        self._weights: SimpleQueue[torch.Tensor] = SimpleQueue()

    def ask(self, name: str) -> torch.Tensor:
        """Called by the task: ask for a weight and wait for it."""
        self._names.put(name)
        return self._weights.get()

    def end(self) -> None:
        """Say that the task has ended."""
        self._names.put(None)

    def next(self) -> str | None:
        """Wait for the name of the next weight; None when the task has ended."""
        return self._names.get()

    def give(self, weight: torch.Tensor) -> None:
        """Give the task the weight that it asked for."""
        self._weights.put(weight)


def run_in_thread(task: Callable[[], T]) -> Future[T]:
    """Start a task in a thread that ends with the process."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(task())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    return future


def poll_result(future: Future[Any], timeout: timedelta) -> TaskStatus:
    """Wait at most `timeout` for a task; an error that is not a ContextgraftError is raised."""
    if not wait([future], timeout.total_seconds()).done:
        return TaskStatus(done=False)
    error = future.exception()
    if error is None:
        return TaskStatus(done=True, result=future.result())
    if isinstance(error, ContextgraftError):
        return TaskStatus(done=True, error=str(error))
    raise error
