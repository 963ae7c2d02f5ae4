"""One changed tensor of a planned graft, by numpy where it can and by PyTorch where it must."""

from collections.abc import Callable

import numpy as np

from contextgraft.adapter.compute.tensor_pool import Buffers
from contextgraft.adapter.merge.kernels.by_numpy import merge_arrays
from contextgraft.adapter.merge.kernels.evidence import TensorEvidence
from contextgraft.adapter.merge.plan import MergePlan


def merge_planned(
    plan: MergePlan,
    name: str,
    *,
    buffers: Buffers,
    write: Callable[[int, memoryview], object],
    device: str = "cpu",
    arrays: bool = True,
) -> TensorEvidence:
    """Compute one changed tensor of a planned graft; `write` is called with an offset and bytes.

    Without `arrays`, PyTorch computes it in any case, as older versions did: the last bit of a product of
    factors can differ.
    """
    change = plan.fit.changes[name]
    if arrays and plan.uses_arrays(name, device):
        with np.errstate(over="ignore", invalid="ignore"):  # the evidence notices it
            deltas = plan.array_deltas(name)
            return merge_arrays(
                plan.target, change.source, deltas, buffers=buffers, write=write, rows=change.rows
            )
    from contextgraft.adapter.merge.kernels.by_torch import merge_tensor
    from contextgraft.adapter.merge.rounding import ROUNDINGS

    return merge_tensor(
        plan.target, change.source, plan.deltas(name, device), rounding=ROUNDINGS[plan.rounding](name),
        buffers=buffers, write=write, rows=change.rows,
    )  # fmt: skip


def discard(offset: int, data: memoryview) -> None:
    """The `write` of a tensor of which only the evidence is needed."""
