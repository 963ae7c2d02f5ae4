"""Selective activation checkpointing: layers are recomputed without their attention, whose output is kept.

torch.utils.checkpoint enters one context in the first pass of a layer and another when it is recomputed; both
share what is kept.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch.utils.checkpoint import create_selective_checkpoint_contexts

CheckpointContexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]
ContextFn = Callable[[], CheckpointContexts]
Results = tuple[torch.Tensor, ...]

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


class KeptAttention:
    """Keeps results of attention that is no operator of torch, such as the ring.

    Not a dataclass: FSDP copies dataclasses among a model's arguments.
    """

    def __init__(self) -> None:
        self._kept: deque[Results] | None = None
        self._recomputing = False

    def contexts(self) -> CheckpointContexts:
        """Contexts of one layer: what is computed in the first is taken in the second, in the same order."""
        kept: deque[Results] = deque()
        return self._using(kept, recomputing=False), self._using(kept, recomputing=True)

    def results(self, compute: Callable[[], Results]) -> Results:
        """The results that were kept, or those of `compute`, which are kept inside the first context."""
        if self._kept is None:
            return compute()
        if self._recomputing:
            return self._kept.popleft()
        computed = compute()
        self._kept.append(tuple(result.detach() for result in computed))  # without the graph of this pass
        return computed

    @contextmanager
    def _using(self, kept: deque[Results], *, recomputing: bool) -> Iterator[None]:
        self._kept, self._recomputing = kept, recomputing
        try:
            yield
        finally:
            self._kept = None
