"""Talking to the other ranks: rings, groups that exchange heads, and what was sent where."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from contextgraft.training.parallel.attention_kernels import Kernel
from contextgraft.training.parallel.layout import Layout, positions

KV, GRADIENT = 0, 1  # tags of what travels round a ring


class Traffic:
    """Bytes this rank has sent, to ranks of its own node and to others; it counts as the run goes on.

    No dataclass: FSDP copies those among a model's arguments, and would count in the copy.
    """

    def __init__(self, ranks_per_node: int) -> None:
        self.ranks_per_node = ranks_per_node
        self.inside = self.between = 0

    def count(self, sender: int, receiver: int, size: int) -> None:
        """Note one message."""
        if sender // self.ranks_per_node == receiver // self.ranks_per_node:
            self.inside += size
        else:
            self.between += size


@dataclass(frozen=True)
class Group:
    """A process group, the ranks in it, this rank's place, and how long to wait for a peer."""

    group: dist.ProcessGroup
    ranks: tuple[int, ...]
    place: int
    patience: timedelta
    traffic: Traffic = field(compare=False)

    @property
    def size(self) -> int:
        """How many ranks."""
        return len(self.ranks)


class Hop:
    """One message to the next rank of a ring while one from the rank before comes in."""

    def __init__(self, ring: Group, message: torch.Tensor, tag: int) -> None:
        behind, before = ring.ranks[(ring.place + 1) % ring.size], ring.ranks[ring.place - 1]
        self.patience = ring.patience
        self.message = message.contiguous()  # kept until it is sent
        self.arrived = torch.empty_like(self.message)
        ring.traffic.count(ring.ranks[ring.place], behind, message.numel() * message.element_size())
        # The receive comes first: in a ring of two both neighbours are one rank, and gloo serves in order.
        self.works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.irecv, self.arrived, before, ring.group, tag),
                dist.P2POp(dist.isend, self.message, behind, ring.group, tag),
            ]
        )

    def wait(self) -> torch.Tensor:
        """What has come in; a peer that stays silent too long raises RuntimeError."""
        for work in self.works:
            work.wait(self.patience)
        return self.arrived


def exchange(x: torch.Tensor, group: Group, *, cut: int, join: int) -> torch.Tensor:
    """Give every rank of the group its part of `x` along `cut`; what comes is joined along `join`."""
    outgoing = torch.stack(x.chunk(group.size, dim=cut))
    incoming = torch.empty_like(outgoing)
    work = dist.all_to_all_single(incoming, outgoing, group=group.group, async_op=True)
    assert work is not None
    work.wait(group.patience)
    size = outgoing[0].numel() * outgoing.element_size()
    for other in group.ranks:
        if other != group.ranks[group.place]:
            group.traffic.count(group.ranks[group.place], other, size)
    return torch.cat(tuple(incoming), dim=join)


@dataclass(frozen=True)
class ContextParallel:
    """All that attention needs to know of its peers: an argument of the model's forward pass."""

    layout: Layout
    place: int
    outer: Group
    inner: Group
    heads: Group
    kernel: Kernel
    traffic: Traffic

    @property
    def part(self) -> int:
        """Place in the (layered) ring."""
        return self.outer.place * self.inner.size + self.inner.place

    def positions(self, length: int) -> torch.Tensor:
        """Positions of a sequence that this rank holds, int64."""
        return positions(self.layout, self.place, length)


class How(NamedTuple):
    """What a call of a ring is given besides tensors."""

    cp: ContextParallel
    scale: float


def context_mesh(layout: Layout, *, replicas: int, device: str) -> DeviceMesh:
    """The mesh (replica, outer, inner): each replica has sequences of its own."""
    shape = (replicas, layout.outer, layout.inner * layout.heads)
    return init_device_mesh(device, shape, mesh_dim_names=("replica", "outer", "inner"))


def context_parallel(
    layout: Layout, mesh: DeviceMesh, kernel: Kernel, *, ranks_per_node: int, patience: timedelta
) -> ContextParallel:
    """The peers of this rank by a mesh of `context_mesh`."""
    traffic = Traffic(ranks_per_node)
    outer, inner = (_group(mesh, name, patience, traffic) for name in ("outer", "inner"))
    alone = Group(inner.group, (mesh.get_rank(),), 0, patience, traffic)
    divided = layout.heads > 1
    return ContextParallel(
        layout,
        outer.place * inner.size + inner.place,
        outer,
        alone if divided else inner,
        inner if divided else alone,
        kernel,
        traffic,
    )


def _group(mesh: DeviceMesh, name: str, patience: timedelta, traffic: Traffic) -> Group:
    group = mesh.get_group(name)
    return Group(
        group, tuple(dist.get_process_group_ranks(group)), mesh.get_local_rank(name), patience, traffic
    )
