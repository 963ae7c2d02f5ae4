"""Many tensors in parallel, each in one thread with buffers of its own.

A tensor's result does not depend on the number of threads. Buffers are reused: allocating fresh memory costs
more than the arithmetic done in it.
"""

import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from contextgraft.adapter.compute.array_numeric import one_thread_per_product
from contextgraft.adapter.compute.arrays import Floats, Raw

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
Buffer = TypeVar("Buffer", "torch.Tensor", np.ndarray[Any, np.dtype[Any]])


@dataclass
class Buffers:
    """Named one-dimensional buffers that grow to the largest request and are handed out as views.

    PyTorch is imported when the first tensor is requested. In a thread of `tensor_threads` it computes in one
    thread from then on, and `thread_counts` gets the number that it had before.
    """

    device: str = "cpu"
    thread_counts: list[int] | None = None
    _tensors: dict[str, "torch.Tensor"] = field(default_factory=dict)
    _arrays: dict[str, np.ndarray[Any, np.dtype[Any]]] = field(default_factory=dict)

    def floats(self, name: str, count: int) -> "torch.Tensor":
        """`count` uninitialised float32 elements on the device."""
        return _grown(
            self._tensors, name, count,
            lambda: self._torch.empty(count, dtype=self._torch.float32, device=self.device),
        )  # fmt: skip

    def bytes(self, name: str, count: int) -> "torch.Tensor":
        """`count` uninitialised bytes in main memory."""
        return _grown(self._tensors, name, count, lambda: self._torch.empty(count, dtype=self._torch.uint8))

    def array(self, name: str, shape: tuple[int, ...]) -> Floats:
        """An uninitialised float32 array of numpy."""
        count = math.prod(shape)
        return _grown(self._arrays, name, count, lambda: np.empty(count, np.float32)).reshape(shape)

    def raw_array(self, name: str, count: int) -> Raw:
        """`count` uninitialised bytes as an array of numpy."""
        return _grown(self._arrays, f"{name} bytes", count, lambda: np.empty(count, np.uint8))

    @cached_property
    def _torch(self) -> ModuleType:
        import torch  # waits for a thread that has begun to import it

        if self.thread_counts is not None:
            self.thread_counts.append(torch.get_num_threads())
            torch.set_num_threads(1)
        return torch

    def limit_torch(self) -> None:
        """Let PyTorch compute in one thread, if it is imported."""
        if "torch" in sys.modules:
            _ = self._torch


def _grown(kept: dict[str, Buffer], name: str, count: int, allocate: Callable[[], Buffer]) -> Buffer:
    """`count` elements of the buffer of that name, allocated if there is none or a smaller one."""
    if name not in kept or len(kept[name]) < count:
        kept.pop(name, None)  # freed before the larger one is allocated
        kept[name] = allocate()
    return kept[name][:count]


@contextmanager
def tensor_threads(
    function: Callable[[Item, Buffers], Result], threads: int, device: str = "cpu"
) -> Iterator[Callable[[Item], Future[Result]]]:
    """A function that starts `function` for an item in one of the threads, with that thread's buffers.

    Afterwards PyTorch has as many threads as before: it keeps one number for all threads of a process.
    """
    local = threading.local()
    thread_counts: list[int] = []

    def begin() -> None:
        local.buffers = Buffers(device, thread_counts)
        local.buffers.limit_torch()

    pool = ThreadPoolExecutor(threads, initializer=begin)
    with one_thread_per_product():
        try:
            yield lambda item: pool.submit(lambda: function(item, local.buffers))
        finally:
            pool.shutdown(cancel_futures=True)
            if thread_counts:
                import torch

                torch.set_num_threads(max(thread_counts))  # those that began later found 1


def for_each_tensor(
    function: Callable[[Item, Buffers], None], items: Iterable[Item], threads: int, device: str = "cpu"
) -> None:
    """Call `function` for every item with its thread's buffers; the first error, or Ctrl-C, ends it."""
    with tensor_threads(function, threads, device) as start:
        for future in as_completed([start(item) for item in items]):
            future.result()
