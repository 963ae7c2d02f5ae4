"""Many tensors at once, each in one thread: what a thread computes does not depend on how many there are."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import torch

Item = TypeVar("Item")


def each(function: Callable[[Item], None], items: Iterable[Item], threads: int) -> None:
    """Call `function` for every item; the first error, or Ctrl-C, cancels what has not begun."""
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for future in as_completed([pool.submit(function, item) for item in items]):
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
