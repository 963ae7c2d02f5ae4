"""Many tensors at once, each in one thread: what a thread computes does not depend on how many there are."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import torch

from contextgraft.adapter.compute.workspace import Workspace

Item = TypeVar("Item")


def each(
    function: Callable[[Item, Workspace], None], items: Iterable[Item], threads: int, device: str = "cpu"
) -> None:
    """Call `function` for every item with its thread's workspace; the first error, or Ctrl-C, ends it."""
    own = threading.local()

    def begin() -> None:
        torch.set_num_threads(1)
        own.workspace = Workspace(device)

    pool = ThreadPoolExecutor(threads, initializer=begin)
    try:
        futures = [pool.submit(lambda item: function(item, own.workspace), item) for item in items]
        for future in as_completed(futures):
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
