"""Layouts: how the ranks that share a sequence divide its positions and heads, from the topology alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contextgraft.errors import InputError

if TYPE_CHECKING:
    import torch

TORCH = "torch"


@dataclass(frozen=True)
class Topology:
    """Ranks that share one sequence: rank = node * per_node + index within the node."""

    nodes: int
    per_node: int

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return self.nodes * self.per_node


@dataclass(frozen=True)
class Layout:
    """Sizes of the ring between nodes, the ring within a node, and the group that divides heads there."""

    name: str
    outer: int
    inner: int
    heads: int = 1

    @property
    def ring(self) -> int:
        """Number of shards of the sequence during attention."""
        return self.outer * self.inner

    @property
    def multiple(self) -> int:
        """Sequences are padded to a multiple of this many tokens."""
        return 2 * self.ring * self.heads


def flat(topology: Topology, heads: int, kv_heads: int) -> Layout:  # noqa: ARG001 - one signature for all
    """One ring over all ranks (Liu et al. 2023, Ring Attention with Blockwise Transformers)."""
    return Layout("flat", 1, topology.ranks)


def double(topology: Topology, heads: int, kv_heads: int) -> Layout:  # noqa: ARG001
    """A ring within each node, inside a ring between nodes: a block crosses the slow link once per node."""
    return Layout("double", topology.nodes, topology.per_node)


def usp(topology: Topology, heads: int, kv_heads: int) -> Layout:
    """Heads divided within a node, a ring between nodes (Fang and Zhao 2024, USP).

    If the ranks of a node do not divide the heads, InputError is raised: keys and values would have to be
    copied, which costs more on the slow link than the layout saves.
    """
    if heads % topology.per_node or kv_heads % topology.per_node:
        raise InputError(
            "layout usp cannot divide the heads among the ranks of a node",
            expected=f"heads and KV heads that are multiples of {topology.per_node}",
            received=f"{heads} heads, {kv_heads} KV heads",
            remedy="use layout double",
        )
    return Layout("usp", topology.nodes, 1, topology.per_node)


def baseline(topology: Topology, heads: int, kv_heads: int) -> Layout:  # noqa: ARG001
    """As flat, with torch's own ring loops: the baseline of the benchmarks."""
    return Layout(TORCH, 1, topology.ranks)


LAYOUTS: dict[str, Callable[[Topology, int, int], Layout]] = {
    "flat": flat,
    "double": double,
    "usp": usp,
    TORCH: baseline,
}


def choose_layout(topology: Topology, heads: int, kv_heads: int) -> tuple[Layout, str]:
    """The layout with the least traffic between nodes, and the reason in words."""
    if topology.nodes == 1:
        return flat(topology, heads, kv_heads), "all ranks are on one node"
    if topology.per_node == 1:
        return flat(topology, heads, kv_heads), "one rank a node: every message crosses nodes"
    shape = f"{topology.nodes} nodes x {topology.per_node} ranks, {kv_heads} KV heads"
    if heads % topology.per_node or kv_heads % topology.per_node:
        return double(topology, heads, kv_heads), f"{shape}: the ranks of a node do not divide the heads"
    return usp(topology, heads, kv_heads), f"{shape}: the ranks of a node divide the heads"


def topology(ranks: int, ranks_per_node: int) -> Topology:
    """How `ranks` consecutive ranks are spread over nodes; an uneven spread raises InputError."""
    per_node = min(ranks, ranks_per_node)
    if ranks % per_node or ranks_per_node % per_node:
        raise InputError(
            "the ranks of a sequence must fill whole nodes, or divide one",
            expected=f"a multiple or divisor of {ranks_per_node} ranks",
            received=ranks,
        )
    return Topology(ranks // per_node, per_node)


def positions(layout: Layout, index: int, length: int) -> "torch.Tensor":
    """Positions of the sequence that the rank with this index holds, int64, in the order it holds them.

    Zig-zag: shard i of n is chunk i of 2n followed by chunk 2n - 1 - i, so that all shards have the same
    causal work. If heads are divided, each rank keeps a slice of its node's shard between layers.
    """
    import torch  # noqa: PLC0415 - plans choose layouts without importing torch

    assert length % layout.multiple == 0, f"{length} is not a multiple of {layout.multiple}"
    ring_index, slice_index = divmod(index, layout.heads)
    chunks = torch.arange(length).chunk(2 * layout.ring)
    shard = torch.cat([chunks[ring_index], chunks[2 * layout.ring - 1 - ring_index]])
    return shard.chunk(layout.heads)[slice_index]
