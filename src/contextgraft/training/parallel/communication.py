"""Communication with other ranks: rings, all-to-all of attention heads, and the bytes that were sent."""

from dataclasses import dataclass, field
from datetime import timedelta
from math import prod
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from contextgraft.attention.kernels import AttentionKernel
from contextgraft.attention.soft_caps import soft_capped
from contextgraft.errors import InputError
from contextgraft.training.activations.selective_checkpointing import KeptAttention
from contextgraft.training.parallel.layout import Layout, positions
from contextgraft.training.parallel.tiles import AttentionSpan

KV_TAG, GRADIENT_TAG = 0, 1  # of messages in a ring


class TrafficCounter:
    """Bytes this rank has sent to ranks of its own node and to those of other nodes.

    Not a dataclass: FSDP copies dataclasses among a model's arguments, and would count in the copy.
    """

    def __init__(self, ranks_per_node: int) -> None:
        self.ranks_per_node = ranks_per_node
        self.reset()

    def reset(self) -> None:
        """Set both counters to 0."""
        self.within_nodes = self.between_nodes = 0

    def count(self, sender: int, receiver: int, size: int) -> None:
        """Add one message of `size` bytes."""
        if sender // self.ranks_per_node == receiver // self.ranks_per_node:
            self.within_nodes += size
        else:
            self.between_nodes += size


@dataclass(frozen=True)
class RankGroup:
    """A process group, its ranks, the index of this rank among them, and how long to wait for a message.

    Timeout None is that of the process group. Under NCCL it is None: its `wait` only holds up the stream that
    computes, but with a timeout also the host.
    """

    group: dist.ProcessGroup
    ranks: tuple[int, ...]
    index: int
    timeout: timedelta | None
    traffic: TrafficCounter = field(compare=False)

    @property
    def size(self) -> int:
        """Number of ranks."""
        return len(self.ranks)

    @property
    def rank(self) -> int:
        """Global rank of this process."""
        return self.ranks[self.index]

    def wait(self, work: dist.Work) -> None:
        """Wait for a message; a peer that does not answer within the timeout raises RuntimeError."""
        work.wait(*(() if self.timeout is None else (self.timeout,)))


class RingSendRecv:
    """Sends a tensor to the next rank of a ring while one from the previous rank is received."""

    def __init__(self, ring: RankGroup, message: torch.Tensor, tag: int) -> None:
        next_rank, previous_rank = ring.ranks[(ring.index + 1) % ring.size], ring.ranks[ring.index - 1]
        self._ring = ring
        self._message = message.contiguous()  # kept until it is sent
        self._received = torch.empty_like(self._message)
        ring.traffic.count(ring.rank, next_rank, message.numel() * message.element_size())
        # The receive comes first: in a ring of two both neighbours are one rank, and gloo serves in order.
        self._works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.irecv, self._received, previous_rank, ring.group, tag),
                dist.P2POp(dist.isend, self._message, next_rank, ring.group, tag),
            ]
        )

    def wait(self) -> torch.Tensor:
        """The received tensor; a peer that does not answer within the timeout raises RuntimeError."""
        for work in self._works:
            self._ring.wait(work)
        return self._received


def all_to_all(x: torch.Tensor, group: RankGroup, *, split_dim: int, join_dim: int) -> torch.Tensor:
    """Send every rank of the group its chunk of `x` along `split_dim`; join what arrives along `join_dim`."""
    outgoing = torch.stack(x.chunk(group.size, dim=split_dim))
    incoming = torch.empty_like(outgoing)
    work = dist.all_to_all_single(incoming, outgoing, group=group.group, async_op=True)
    assert work is not None
    group.wait(work)
    size = outgoing[0].numel() * outgoing.element_size()
    for other in group.ranks:
        if other != group.rank:
            group.traffic.count(group.rank, other, size)
    return torch.cat(tuple(incoming), dim=join_dim)


@dataclass(frozen=True)
class ContextParallel:
    """The peers of this rank, as attention needs them: an argument of the model's forward pass.

    `index` is that of this rank among the ranks that share a sequence. `skipping`: position ids may skip.
    `starts`: where documents begin in each row of the batch, if tokens see only those of their document.
    `kept`: results of attention that are not recomputed.
    """

    layout: Layout
    index: int
    outer: RankGroup
    inner: RankGroup
    heads: RankGroup
    kernel: AttentionKernel
    traffic: TrafficCounter
    skipping: bool = False
    starts: tuple[tuple[int, ...], ...] | None = None
    kept: KeptAttention | None = None

    @property
    def ring_index(self) -> int:
        """Index of this rank in the (layered) ring."""
        return self.outer.index * self.inner.size + self.inner.index

    def positions(self, length: int) -> torch.Tensor:
        """Positions of a sequence that this rank holds, int64."""
        return positions(self.layout, self.index, length)


class RingArgs(NamedTuple):
    """Arguments of ring attention that are not tensors."""

    cp: ContextParallel
    scale: float
    span: AttentionSpan = AttentionSpan()
    softcap: float | None = None

    @property
    def kernel(self) -> AttentionKernel:
        """The kernel of the device; if scores have a soft cap, the one that every device has."""
        return self.cp.kernel if self.softcap is None else soft_capped(self.softcap)


def context_mesh(layout: Layout, *, replicas: int, device: str, timeout: timedelta) -> DeviceMesh:
    """The mesh (replica, outer, inner): each replica has its own sequences."""
    shape = (replicas, layout.outer, layout.inner * layout.heads)
    return _mesh(device, shape, ("replica", "outer", "inner"), timeout)


def weight_mesh(ranks: int, replicas: int, device: str, timeout: timedelta) -> DeviceMesh:
    """The mesh (replicate, shard) of weights, gradients and moments: each replica holds all of them.

    With more than one replica that is HSDP; replicas that do not divide the ranks raise InputError.
    """
    if ranks % replicas:
        raise InputError(
            "the replicas of the weights must divide the number of ranks",
            expected=f"a divisor of {ranks}",
            received=replicas,
        )
    if replicas == 1:
        return _mesh(device, (ranks,), ("shard",), timeout)
    return _mesh(device, (replicas, ranks // replicas), ("replicate", "shard"), timeout)


def _mesh(device: str, shape: tuple[int, ...], names: tuple[str, ...], timeout: timedelta) -> DeviceMesh:
    """A mesh over all ranks, whose groups wait for `timeout`.

    init_device_mesh would make groups with the timeout of the backend: ten minutes for NCCL, thirty for
    gloo. A group of all ranks is the one that there is, with the timeout that it was made with.
    """
    ranks, everyone = torch.arange(prod(shape)).view(shape), dist.group.WORLD
    assert everyone is not None
    groups = []
    for dimension, size in enumerate(shape):
        members = ranks.movedim(dimension, -1).reshape(-1, size).tolist()
        made = None
        if len(members) > 1:
            made, _ = dist.new_subgroups_by_enumeration(members, timeout=timeout)  # type: ignore[no-untyped-call]
        groups.append(made or everyone)
    return DeviceMesh.from_group(groups, device, mesh=ranks, mesh_dim_names=names)


def context_parallel(
    layout: Layout, mesh: DeviceMesh, kernel: AttentionKernel, *, ranks_per_node: int, timeout: timedelta
) -> ContextParallel:
    """The peers of this rank in a mesh of `context_mesh`."""
    traffic = TrafficCounter(ranks_per_node)
    host = None if mesh.device_type == "cuda" else timeout
    outer, inner = (_rank_group(mesh, name, host, traffic) for name in ("outer", "inner"))
    only_this_rank = RankGroup(inner.group, (mesh.get_rank(),), 0, host, traffic)
    heads_divided = layout.heads > 1
    return ContextParallel(
        layout=layout,
        index=outer.index * inner.size + inner.index,
        outer=outer,
        inner=only_this_rank if heads_divided else inner,
        heads=inner if heads_divided else only_this_rank,
        kernel=kernel,
        traffic=traffic,
    )


def _rank_group(mesh: DeviceMesh, name: str, timeout: timedelta | None, traffic: TrafficCounter) -> RankGroup:
    group = mesh.get_group(name)
    ranks = tuple(dist.get_process_group_ranks(group))
    return RankGroup(group, ranks, mesh.get_local_rank(name), timeout, traffic)
