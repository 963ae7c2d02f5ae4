"""The tensors of a planned graft, computed when they are read: the bytes that `merge` would write."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from contextgraft.adapter.compute.tensor_pool import Buffers, for_each_tensor, tensor_threads
from contextgraft.adapter.merge.kernels.evidence import TensorEvidence, copied_evidence
from contextgraft.adapter.merge.plan import MergePlan
from contextgraft.adapter.merge.tensor import discard, merge_planned
from contextgraft.checkpoint.reader import DTYPES, LazyTensor, lazy_tensors, read_tensor
from contextgraft.errors import InputChanged


def graft_evidence(plan: MergePlan, target: Mapping[str, str], threads: int) -> dict[str, TensorEvidence]:
    """What `merge` would record of every tensor of the graft; `target` are digests of the target's tensors.

    Each changed tensor is computed once, and not kept.
    """
    computed: dict[str, TensorEvidence] = {}

    def one(name: str, buffers: Buffers) -> None:
        computed[name] = merge_planned(plan, name, buffers=buffers, write=discard)

    for_each_tensor(one, plan.changed, threads)
    return {name: computed.get(name) or copied_evidence(target[name]) for name in plan.layout.tensors}


@contextmanager
def open_graft_tensors(
    plan: MergePlan, digests: Mapping[str, str], threads: int
) -> Iterator[dict[str, LazyTensor]]:
    """Every tensor of the graft by name, in the order of its files; they can be read inside the block.

    A tensor that has another digest than `digests` says raises InputChanged.
    """

    def compute(name: str, buffers: Buffers) -> torch.Tensor:
        if name not in plan.fit.changes:
            return read_tensor(plan.target, name)
        return merged_tensor(plan, name, digests[name], buffers)

    with tensor_threads(compute, threads) as start:
        yield lazy_tensors(plan.layout.tensors, lambda name: start(name).result())


def merged_tensor(plan: MergePlan, name: str, digest: str, buffers: Buffers) -> torch.Tensor:
    """One changed tensor in its stored dtype; InputChanged if it has another digest."""
    info = plan.layout.tensors[name]
    raw = torch.empty(info.bytes, dtype=torch.uint8)
    view = raw.numpy().data

    def write(offset: int, data: memoryview) -> None:
        view[offset : offset + len(data)] = data

    evidence = merge_planned(plan, name, buffers=buffers, write=write)
    if evidence.digest_after != digest:
        raise InputChanged(plan.target.path)
    return raw.view(DTYPES[info.dtype]).reshape(info.shape)
