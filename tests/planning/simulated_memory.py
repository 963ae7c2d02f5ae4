"""Peak bytes of one rank's activations, by fake tensors.

The code is that of model and ring; the shapes of intermediate results are those of CUDA's kernels.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import AutoConfig, AutoModelForCausalLM
from typing_extensions import override

from contextgraft.attention.kernels import KERNELS
from contextgraft.training.activations.host_copies import Copy, ImmediateCopies
from contextgraft.training.parallel import attention, ring
from contextgraft.training.parallel.communication import ContextParallel, RankGroup, TrafficCounter
from contextgraft.training.parallel.layout import Layout


@dataclass
class Storages(TorchDispatchMode):
    """Counts the bytes of storages that are alive, and the most there were."""

    now: int = 0
    peak: int = 0
    alive: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def ignore(self, tensor: torch.Tensor) -> None:
        """Do not count this tensor."""
        self.alive[tensor.untyped_storage()._cdata] = 0

    def count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return
        self.alive[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)

        def freed() -> None:
            self.now -= self.alive.pop(key, 0)

        weakref.finalize(storage, freed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self.count, out)
        return out


class FakeSendRecv:
    """A message that arrives in a buffer of its own."""

    def __init__(self, group: RankGroup, message: torch.Tensor, tag: int) -> None:
        self.message = message.contiguous()
        self.received = torch.empty_like(self.message)

    def wait(self) -> torch.Tensor:
        return self.received


def peers(ranks: int) -> ContextParallel:
    """A rank in the middle of a flat ring."""
    traffic, forever = TrafficCounter(ranks), timedelta(minutes=5)
    alone = RankGroup(None, (0,), 0, forever, traffic)  # type: ignore[arg-type]
    all_ranks = RankGroup(None, tuple(range(ranks)), ranks // 2, forever, traffic)  # type: ignore[arg-type]
    layout = Layout("flat", 1, ranks)
    return ContextParallel(layout, ranks // 2, alone, all_ranks, alone, KERNELS["cuda"], traffic)


@contextmanager
def fake_ring() -> Iterator[None]:
    attention.register()
    with patch.object(ring, "RingSendRecv", FakeSendRecv), patch.object(attention, "check_positions"):
        yield


def peak_activations(
    config: dict[str, Any],
    tokens: int,
    cp: ContextParallel,
    *,
    dtype: torch.dtype,
    prepare: Any = None,
    hooks: saved_tensors_hooks | None = None,
    softcap: float | None = None,
) -> float:
    """Most bytes that activations of a forward and a backward pass have on a rank that holds `tokens` tokens.

    Two small numbers of layers are simulated, and the rest follows: every layer adds the same, but for
    the first ones if tensors are offloaded.
    """
    layers, fewest = int(config["num_hidden_layers"]), 2 if hooks is None else 4
    few, more = (
        _peak(
            {**config, "num_hidden_layers": n},
            tokens,
            cp,
            dtype=dtype,
            prepare=prepare,
            hooks=hooks,
            softcap=softcap,
        )
        for n in (fewest, fewest + 1)
    )
    return more + (layers - fewest - 1) * (more - few)


class NoHostMemory(ImmediateCopies):
    """Copies whose results in host memory have no elements, so that only the device's memory is counted."""

    def __init__(self) -> None:
        self._copied: list[tuple[torch.Tensor, torch.Size, torch.dtype]] = []

    @override
    def to_host(self, tensor: torch.Tensor) -> Copy:
        host = torch.empty(0)
        self._copied.append((host, tensor.shape, tensor.dtype))
        return Copy(tensor, host)

    @override
    def to_device(self, tensor: torch.Tensor) -> Copy:
        shape, dtype = next((shape, dtype) for host, shape, dtype in self._copied if host is tensor)
        return Copy(tensor, torch.empty(shape, dtype=dtype))


def _peak(
    config: dict[str, Any],
    tokens: int,
    cp: ContextParallel,
    *,
    dtype: torch.dtype,
    prepare: Any,
    hooks: saved_tensors_hooks | None,
    softcap: float | None,
) -> int:
    config = dict(config)
    kind = config.pop("model_type")
    for key in ("dtype", "torch_dtype"):
        config.pop(key, None)
    with fake_ring(), FakeTensorMode(allow_non_fake_inputs=True):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(kind, **config), dtype=dtype, attn_implementation=attention.NAME
        )
        model.train()
        if prepare is not None:
            prepare(model)
        ids = torch.zeros(1, tokens, dtype=torch.int64)
        positions = torch.zeros(1, tokens, dtype=torch.int64)
        with Storages() as storages:
            for tensor in (*model.parameters(), *model.buffers()):
                storages.ignore(tensor)
            inputs = {"input_ids": ids, "position_ids": positions, "context_parallel": cp, "softcap": softcap}
            with hooks or nullcontext():
                (hidden, *_) = model.model(**inputs, use_cache=False).to_tuple()
            for parameter in model.parameters():
                parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
            torch.autograd.backward(hidden, torch.empty_like(hidden))
        return int(storages.peak)
