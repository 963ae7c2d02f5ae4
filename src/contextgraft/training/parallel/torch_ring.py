"""torch's own ring loops around our kernels, as a baseline for benchmarks.

`torch.distributed.tensor.experimental.context_parallel` itself patches functions of torch and does not
support the CPU kernel; its loops take a group and a kernel, and divide the sequence as layout flat does. They
are private: the import path is that of the locked version.
"""

from typing import Any

import torch

from contextgraft.attention.kernels import AttentionBlock, AttentionKernel, AttentionResult
from contextgraft.training.parallel.communication import RingArgs

LENGTH_DIM = 2  # of (B, H, L, D)


class TorchRing(torch.autograd.Function):
    """Attention of this rank's queries on the keys and values of the inner ring."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, args: RingArgs) -> torch.Tensor:
        """Output for this rank's queries."""
        from torch.distributed.tensor.experimental._context_parallel import _attention  # noqa: PLC0415

        cp = args.cp
        op = _KernelOp(cp.kernel, args.scale)
        out, lse = _attention._templated_ring_attention(
            cp.inner.group, LENGTH_DIM, op.forward, q, k, v, is_causal=True
        )
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.args = args
        return out

    @staticmethod
    def backward(ctx: Any, dout: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of q, k and v, computed by torch's ring."""
        from torch.distributed.tensor.experimental._context_parallel import _attention  # noqa: PLC0415

        q, k, v, out, lse = ctx.saved_tensors
        cp, op = ctx.args.cp, _KernelOp(ctx.args.cp.kernel, ctx.args.scale)
        dq, dk, dv, *_ = _attention._templated_ring_attention_backward(
            cp.inner.group, LENGTH_DIM, op.backward, dout.contiguous(), "grad_out", q, k, v, out, lse, True
        )
        return dq, dk, dv, None


class _KernelOp:
    """A kernel with the signatures that torch's loops expect."""

    def __init__(self, kernel: AttentionKernel, scale: float) -> None:
        self.kernel, self.scale = kernel, scale

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
    ) -> tuple[torch.Tensor, ...]:
        """Output and log-sum-exp of a block."""
        return tuple(self.kernel.forward(AttentionBlock(query, key, value, options["is_causal"], self.scale)))

    def backward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
    ) -> tuple[torch.Tensor, ...]:
        """Gradients of one block of keys and values, computed by the kernel."""
        block = AttentionBlock(query, key, value, options["is_causal"], self.scale)
        total = AttentionResult(options["out"], options["logsumexp"])
        return tuple(self.kernel.backward(block, options["grad_out"], total))
