"""Many tensors in parallel, each in one thread with buffers of its own.

A tensor's result does not depend on the number of threads. Buffers are reused: allocating fresh memory costs
more than the arithmetic done in it.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Buffers:
    """Named one-dimensional buffers that grow to the largest request and are handed out as views."""

    device: str = "cpu"
    _buffers: dict[str, torch.Tensor] = field(default_factory=dict)

    def floats(self, name: str, count: int) -> torch.Tensor:
        """`count` uninitialised float32 elements on the device."""
        return self._view(name, count, torch.float32, self.device)

    def bytes(self, name: str, count: int) -> torch.Tensor:
        """`count` uninitialised bytes in main memory."""
        return self._view(name, count, torch.uint8, "cpu")

    def _view(self, name: str, count: int, dtype: torch.dtype, device: str) -> torch.Tensor:
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < count:
            self._buffers.pop(name, None)
            buffer = self._buffers[name] = torch.empty(count, dtype=dtype, device=device)
        return buffer[:count]


@contextmanager
def tensor_threads(
    function: Callable[[Item, Buffers], Result], threads: int, device: str = "cpu"
) -> Iterator[Callable[[Item], Future[Result]]]:
    """A function that starts `function` for an item in one of the threads, with that thread's buffers."""
    local = threading.local()

    def begin() -> None:
        torch.set_num_threads(1)
        local.buffers = Buffers(device)

    pool = ThreadPoolExecutor(threads, initializer=begin)
    try:
        yield lambda item: pool.submit(lambda: function(item, local.buffers))
    finally:
        pool.shutdown(cancel_futures=True)


def for_each_tensor(
    function: Callable[[Item, Buffers], None], items: Iterable[Item], threads: int, device: str = "cpu"
) -> None:
    """Call `function` for every item with its thread's buffers; the first error, or Ctrl-C, ends it."""
    with tensor_threads(function, threads, device) as start:
        for future in as_completed([start(item) for item in items]):
            future.result()
