"""Layouts: how the ranks that share a sequence divide its positions and heads, from the topology alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from contextgraft.errors import InputError

TORCH = "torch"


@dataclass(frozen=True)
class Topology:
    """Ranks that share one sequence: rank = node * per_node + place inside the node."""

    nodes: int
    per_node: int

    @property
    def ranks(self) -> int:
        """All of them."""
        return self.nodes * self.per_node


@dataclass(frozen=True)
class Layout:
    """Sizes of the ring between nodes, of the ring inside one, and of the group that divides heads there."""

    name: str
    outer: int
    inner: int
    heads: int = 1

    @property
    def ring(self) -> int:
        """Parts into which the sequence is cut for attention."""
        return self.outer * self.inner

    @property
    def multiple(self) -> int:
        """Sequences are padded to a multiple of this many tokens."""
        return 2 * self.ring * self.heads


def flat(topology: Topology, heads: int, kv_heads: int) -> Layout:  # noqa: ARG001 - one signature for all layouts
    """One ring over all ranks (Liu et al. 2023, Ring Attention with Blockwise Transformers)."""
    return Layout("flat", 1, topology.ranks)


def double(topology: Topology, heads: int, kv_heads: int) -> Layout:  # noqa: ARG001
    """A ring inside each node within a ring between nodes: a block crosses the slow link once a node."""
    return Layout("double", topology.nodes, topology.per_node)


def usp(topology: Topology, heads: int, kv_heads: int) -> Layout:
    """Heads divided inside a node, a ring between nodes (Fang and Zhao 2024, USP).

    Heads that the ranks of a node do not divide raise InputError: KV would have to be copied, which costs
    more on the slow link than the layout saves.
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
    """As flat, but the blocks are passed on by torch's own loops: what the others are measured against."""
    return Layout(TORCH, 1, topology.ranks)


LAYOUTS: dict[str, Callable[[Topology, int, int], Layout]] = {
    "flat": flat,
    "double": double,
    "usp": usp,
    TORCH: baseline,
}


def choose(topology: Topology, heads: int, kv_heads: int) -> tuple[Layout, str]:
    """The layout that loads the link between nodes least, and why."""
    if topology.nodes == 1:
        return flat(topology, heads, kv_heads), "all ranks are on one node"
    if topology.per_node == 1:
        return flat(topology, heads, kv_heads), "one rank a node: every hop crosses nodes"
    shape = f"{topology.nodes} nodes x {topology.per_node} ranks, {kv_heads} KV heads"
    if heads % topology.per_node or kv_heads % topology.per_node:
        return double(topology, heads, kv_heads), f"{shape}: the ranks of a node do not divide the heads"
    return usp(topology, heads, kv_heads), f"{shape}: the ranks of a node divide the heads"


def topology(ranks: int, ranks_per_node: int) -> Topology:
    """How `ranks` consecutive ranks lie on nodes; uneven shares of nodes are refused."""
    per_node = min(ranks, ranks_per_node)
    if ranks % per_node or ranks_per_node % per_node:
        raise InputError(
            "the ranks of a sequence must fill whole nodes, or divide one",
            expected=f"a multiple or divisor of {ranks_per_node} ranks",
            received=ranks,
        )
    return Topology(ranks // per_node, per_node)


def positions(layout: Layout, place: int, length: int) -> torch.Tensor:
    """Positions of the sequence that the rank at `place` holds, int64, in the order it holds them.

    Zig-zag: a part is the i-th piece from the front with the i-th from the back, so that all parts have the
    same causal work. Where heads are divided, each rank keeps a stretch of its node's part between layers.
    """
    assert length % layout.multiple == 0, f"{length} is no multiple of {layout.multiple}"
    part, within = divmod(place, layout.heads)
    pieces = torch.arange(length).chunk(2 * layout.ring)
    held = torch.cat([pieces[part], pieces[2 * layout.ring - 1 - part]])
    return held.chunk(layout.heads)[within]
