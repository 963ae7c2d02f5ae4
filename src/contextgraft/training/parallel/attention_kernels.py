"""Attention of one block of queries on one block of keys: output with its log-sum-exp, and the gradients.

The gradients are taken against the output and log-sum-exp of *all* blocks: that is what makes parts add up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from contextgraft.errors import InputError

aten = torch.ops.aten


class Block(NamedTuple):
    """q (B, H, Lq, D), k and v (B, K, Lk, D) with K dividing H; causal only where Lq is Lk."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    causal: bool
    scale: float


class Result(NamedTuple):
    """Output (B, H, Lq, D) and log-sum-exp (B, H, Lq) of the scores."""

    out: torch.Tensor
    lse: torch.Tensor


class Gradients(NamedTuple):
    """Shaped like q, k and v."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


@dataclass(frozen=True)
class Kernel:
    """The two functions, and the dtypes they take.

    Backward takes the gradient of the output, then the result over all blocks.
    """

    forward: Callable[[Block], Result]
    backward: Callable[[Block, torch.Tensor, Result], Gradients]
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32, torch.bfloat16)


def _cpu_forward(block: Block) -> Result:
    q, k, v, causal, scale = block
    return Result(*aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale))


def _cpu_backward(block: Block, dout: torch.Tensor, whole: Result) -> Gradients:
    q, k, v, causal, scale = block
    backward = aten._scaled_dot_product_flash_attention_for_cpu_backward
    return Gradients(*backward(dout, q, k, v, whole.out, whole.lse, 0.0, causal, scale=scale))


def _cuda_forward(block: Block) -> Result:
    q, k, v, causal, scale = block
    return Result(*aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)[:2])


def _cuda_backward(block: Block, dout: torch.Tensor, whole: Result) -> Gradients:
    q, k, v, causal, scale = block
    seed = torch.zeros((), dtype=torch.int64, device=q.device)  # of a dropout that is not there
    backward = aten._scaled_dot_product_flash_attention_backward
    sizes = (None, None, q.shape[2], k.shape[2])
    return Gradients(
        *backward(dout, q, k, v, whole.out, whole.lse, *sizes, 0.0, causal, seed, seed, scale=scale)
    )


def _plain_forward(block: Block) -> Result:
    scores = _scores(block)
    lse = scores.logsumexp(-1)
    return Result((scores - lse.unsqueeze(-1)).exp() @ _repeated(block.v, block.q), lse)


def _plain_backward(block: Block, dout: torch.Tensor, whole: Result) -> Gradients:
    q, k, v, _, scale = block
    shares = (_scores(block) - whole.lse.unsqueeze(-1)).exp()
    dscores = shares * (dout @ _repeated(v, q).mT - (dout * whole.out).sum(-1, keepdim=True)) * scale
    return Gradients(dscores @ _repeated(k, q), _summed(dscores.mT @ q, k), _summed(shares.mT @ dout, v))


def _scores(block: Block) -> torch.Tensor:
    scores = block.q @ _repeated(block.k, block.q).mT * block.scale
    if not block.causal:
        return scores
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(future, float("-inf"))


def _repeated(kv: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return kv.repeat_interleave(q.shape[1] // kv.shape[1], dim=1)


def _summed(grad: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
    batch, heads, length, size = kv.shape
    return grad.reshape(batch, heads, -1, length, size).sum(2)


KERNELS: dict[str, Kernel] = {
    "cpu": Kernel(_cpu_forward, _cpu_backward),
    "cuda": Kernel(_cuda_forward, _cuda_backward, (torch.bfloat16,)),  # never run by the tests
    "plain": Kernel(_plain_forward, _plain_backward),
}


def check_dtype(device: str, dtype: torch.dtype) -> None:
    """Raise InputError if the device's kernel does not take it."""
    taken = KERNELS[device].dtypes
    if dtype not in taken:
        names = [str(each).removeprefix("torch.") for each in (*taken, dtype)]
        raise InputError(
            f"attention on {device} does not compute in it",
            expected=f"--dtype {' or '.join(names[:-1])}",
            received=names[-1],
        )
