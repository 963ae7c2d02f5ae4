"""torch's own ring, to be measured against: the loops of its `context_parallel` round our kernels.

`torch.distributed.tensor.experimental.context_parallel` itself replaces functions of torch and has no rule
for the processor's kernel; its loops take a group and a kernel, and divide the sequence as layout flat does.
They are not public: the import names them where they lie in the locked version.
"""

from typing import Any

import torch

from contextgraft.training.parallel.attention_kernels import Block, Kernel, Result
from contextgraft.training.parallel.communication import How

LENGTH_DIM = 2  # of (B, H, L, D)


class TorchRing(torch.autograd.Function):
    """Attention of this rank's queries on the keys and values of the inner ring."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, how: How) -> torch.Tensor:
        """By torch's loop."""
        from torch.distributed.tensor.experimental._context_parallel import _attention  # noqa: PLC0415

        cp = how.cp
        op = _Op(cp.kernel, how.scale)
        out, lse = _attention._templated_ring_attention(
            cp.inner.group, LENGTH_DIM, op.forward, q, k, v, is_causal=True
        )
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.how = how
        return out

    @staticmethod
    def backward(ctx: Any, dout: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """By torch's loop."""
        from torch.distributed.tensor.experimental._context_parallel import _attention  # noqa: PLC0415

        q, k, v, out, lse = ctx.saved_tensors
        cp, op = ctx.how.cp, _Op(ctx.how.cp.kernel, ctx.how.scale)
        dq, dk, dv, *_ = _attention._templated_ring_attention_backward(
            cp.inner.group, LENGTH_DIM, op.backward, dout.contiguous(), "grad_out", q, k, v, out, lse, True
        )
        return dq, dk, dv, None


class _Op:
    """A kernel in the words of torch's loops."""

    def __init__(self, kernel: Kernel, scale: float) -> None:
        self.kernel, self.scale = kernel, scale

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **how: Any
    ) -> tuple[torch.Tensor, ...]:
        """Output and log-sum-exp of a block."""
        return tuple(self.kernel.forward(Block(query, key, value, how["is_causal"], self.scale)))

    def backward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **how: Any
    ) -> tuple[torch.Tensor, ...]:
        """Gradients of a block."""
        block = Block(query, key, value, how["is_causal"], self.scale)
        whole = Result(how["out"], how["logsumexp"])
        return tuple(self.kernel.backward(block, how["grad_out"], whole))
