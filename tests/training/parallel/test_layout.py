import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contextgraft.attention.kernels import KERNELS, AttentionBlock
from contextgraft.errors import InputError
from contextgraft.rope.settings import RopeSettings
from contextgraft.training.parallel.attention import ROPE_TYPES, check_rope
from contextgraft.training.parallel.layout import LAYOUTS, Topology, choose_layout, positions, topology


@given(
    name=st.sampled_from(sorted(LAYOUTS)),
    nodes=st.integers(1, 4),
    per_node=st.integers(1, 4),
    times=st.integers(1, 5),
)
def test_every_position_is_held_once_and_work_is_equal(
    name: str, nodes: int, per_node: int, times: int
) -> None:
    shape = Topology(nodes, per_node)
    layout = LAYOUTS[name](shape, 12, 12)
    length = layout.multiple * times
    held = [positions(layout, place, length) for place in range(shape.ranks)]
    assert sorted(torch.cat(held).tolist()) == list(range(length))
    parts = torch.stack(held).reshape(layout.ring, -1)
    assert len({int(part.sum()) for part in parts}) == 1


@pytest.mark.parametrize(
    ("nodes", "per_node", "kv_heads", "name", "why"),
    [
        (1, 8, 8, "flat", "one node"),
        (4, 1, 8, "flat", "one rank a node"),
        (2, 8, 8, "usp", "divide the heads"),
        (2, 8, 4, "double", "do not divide the heads"),
        (64, 8, 8, "usp", "64 nodes x 8 ranks"),
    ],
)
def test_layout_follows_the_topology(nodes: int, per_node: int, kv_heads: int, name: str, why: str) -> None:
    layout, reason = choose_layout(Topology(nodes, per_node), 32, kv_heads)
    assert layout.name == name
    assert why in reason


def test_usp_refuses_heads_it_cannot_divide() -> None:
    with pytest.raises(InputError, match="multiples of 8; received 32 heads, 4 KV heads; use layout double"):
        LAYOUTS["usp"](Topology(2, 8), 32, 4)


def test_a_sequence_fills_nodes_or_divides_one() -> None:
    assert topology(16, 8) == Topology(2, 8)
    assert topology(4, 8) == Topology(1, 4)
    for ranks in (12, 3):
        with pytest.raises(InputError, match="multiple or divisor of 8"):
            topology(ranks, 8)


def test_rope_that_differs_by_rank_is_refused() -> None:
    for kind in ROPE_TYPES:
        check_rope(RopeSettings(1e4, 8, kind))
    for kind in ("dynamic", "longrope"):
        with pytest.raises(InputError, match=f"received {kind}"):
            check_rope(RopeSettings(1e4, 8, kind))


@pytest.mark.parametrize("causal", [True, False])
def test_the_fast_kernel_is_the_plain_one(causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, dout = (torch.randn(2, 6, 24, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    keys = 24 if causal else 12
    k, v = (torch.randn(2, 2, keys, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    block = AttentionBlock(q, k, v, causal, 0.3)
    fast, plain = KERNELS["cpu"].forward(block), KERNELS["plain"].forward(block)
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)
    gradients = (KERNELS[name].backward(block, dout, fast) for name in ("cpu", "plain"))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
