"""Many tensors in parallel, each in one thread with buffers of its own.

A tensor's result does not depend on the number of threads. Buffers are reused: allocating fresh memory costs
more than the arithmetic done in it.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TypeVar

import torch

Item = TypeVar("Item")


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


def for_each_tensor(
    function: Callable[[Item, Buffers], None], items: Iterable[Item], threads: int, device: str = "cpu"
) -> None:
    """Call `function` for every item with its thread's buffers; the first error, or Ctrl-C, ends it."""
    local = threading.local()

    def begin() -> None:
        torch.set_num_threads(1)
        local.buffers = Buffers(device)

    pool = ThreadPoolExecutor(threads, initializer=begin)
    try:
        futures = [pool.submit(lambda item: function(item, local.buffers), item) for item in items]
        for future in as_completed(futures):
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
