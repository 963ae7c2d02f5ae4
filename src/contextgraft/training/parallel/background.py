"""Long work of one process beside its talk with the others, so that they do not take it for dead."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import timedelta
from threading import Thread
from typing import Any, TypeVar

from contextgraft.errors import ContextgraftError

T = TypeVar("T")


def beside(act: Callable[[], T]) -> Future[T]:
    """Begin an act in a thread, which ends with the process."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(act())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    return future


def result_within(future: Future[Any], longest: timedelta) -> list[Any]:
    """Whether it is done, its result, and the line of an error that users are told; any other is raised.

    Waits for it, but not longer than `longest`.
    """
    if not wait([future], longest.total_seconds()).done:
        return [False, None, None]
    error = future.exception()
    if error is None:
        return [True, future.result(), None]
    if isinstance(error, ContextgraftError):
        return [True, None, str(error)]
    raise error
