"""Selective activation checkpointing: layers are recomputed without their attention, whose output is kept.

torch.utils.checkpoint enters one context in the first pass of a layer and another when it is recomputed; both
share what is kept.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import create_selective_checkpoint_contexts

CheckpointContexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]
ContextFn = Callable[[], CheckpointContexts]
Results = tuple[torch.Tensor, ...]
Packed = list[Any]  # what a hook of autograd makes of each

aten = torch.ops.aten
SDPA_OPERATORS = [
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
]


def keep_sdpa() -> CheckpointContexts:
    """Contexts that keep the results of torch's own attention; attention by matrix products is recomputed."""
    first, again = create_selective_checkpoint_contexts(SDPA_OPERATORS)  # type: ignore[no-untyped-call]
    return first, again


def keep_on_device() -> saved_tensors_hooks:
    """Hooks that save tensors as they are, also inside others that would move them."""
    return saved_tensors_hooks(_unchanged, _unchanged)


class KeptAttention:
    """Keeps results of attention that is no operator of torch, such as the ring; by `hooks` where they say.

    Not a dataclass: FSDP copies dataclasses among a model's arguments.
    """

    def __init__(self, hooks: saved_tensors_hooks | None = None) -> None:
        self._hooks = hooks or keep_on_device()
        self._kept: deque[Packed] | None = None
        self._recomputing = False

    def contexts(self) -> CheckpointContexts:
        """Contexts of one layer: what is computed in the first is taken in the second, in the same order."""
        kept: deque[Packed] = deque()
        return self._using(kept, recomputing=False), self._using(kept, recomputing=True)

    def results(self, compute: Callable[[], Results]) -> Results:
        """The results that were kept, or those of `compute`, which are kept inside the first context."""
        if self._kept is None:
            return compute()
        if self._recomputing:
            return tuple(map(self._hooks.unpack_hook, self._kept.popleft()))
        computed = compute()
        self._kept.append([self._hooks.pack_hook(result.detach()) for result in computed])
        return computed

    @contextmanager
    def _using(self, kept: deque[Packed], *, recomputing: bool) -> Iterator[None]:
        self._kept, self._recomputing = kept, recomputing
        try:
            yield
        finally:
            self._kept = None


def _unchanged(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
