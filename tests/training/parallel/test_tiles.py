"""Tiles of limited attention against the definition, position by position."""

import random

import pytest
import torch

from contextgraft.training.parallel.tiles import WHOLE, AttentionSpan, ShardPair, Tile, tiles

ROWS = 2


def held_positions(index: int, ring: int, half: int) -> torch.Tensor:
    chunks = torch.arange(2 * ring * half).chunk(2 * ring)
    return torch.cat([chunks[index], chunks[2 * ring - 1 - index]])


def seen_by_definition(pair: ShardPair, span: AttentionSpan) -> torch.Tensor:
    queries, keys = (held_positions(index, pair.ring, pair.half) for index in (pair.queries, pair.keys))
    seen = (keys <= queries[:, None]).expand(ROWS, -1, -1)
    if span.window is not None:
        seen = seen & (keys > queries[:, None] - span.window)
    if span.starts is None:
        return seen
    length = 2 * pair.ring * pair.half
    documents = torch.tensor(
        [[sum(start <= p for start in row) for p in range(length)] for row in span.starts]
    )
    return seen & (documents[:, queries][:, :, None] == documents[:, keys][:, None])


def times_computed(pair: ShardPair, span: AttentionSpan) -> torch.Tensor:
    """How many tiles have each pair of query and key."""
    times = torch.zeros(ROWS, 2 * pair.half, 2 * pair.half, dtype=torch.int64)
    for tile in tiles(pair, span):
        part = times[tile.rows, tile.queries, tile.keys]
        ones = torch.ones(part.shape[1:], dtype=torch.int64)
        assert part.numel() > 0
        if tile.causal:
            assert part.shape[1] == part.shape[2]
            ones = ones.triu() if tile.reversed else ones.tril()
        part += ones
    return times


@pytest.mark.parametrize("seed", range(40))
def test_every_pair_that_may_attend_is_in_one_tile(seed: int) -> None:
    rng = random.Random(seed)
    ring, half = rng.choice([1, 2, 3, 4]), rng.choice([1, 2, 3, 5, 8])
    length = 2 * ring * half
    drawn = [sorted({0, *rng.sample(range(length), rng.randrange(min(length, 7)))}) for _ in range(ROWS)]
    for window in (None, 1, 2, 3, rng.randint(1, length), length, 1000):
        for starts in (None, drawn):
            span = AttentionSpan(window, starts)
            for queries in range(ring):
                for keys in range(ring):
                    pair = ShardPair(queries, keys, ring, half)
                    expected = seen_by_definition(pair, span).long()
                    assert torch.equal(times_computed(pair, span), expected), (pair, span)


def test_plain_causal_attention_has_one_tile_for_each_shard() -> None:
    everything = slice(None)
    found = [list(tiles(ShardPair(1, keys, 3, 4), AttentionSpan())) for keys in range(3)]
    assert found == [
        [Tile(everything, everything, slice(0, 4))],
        [WHOLE],
        [Tile(everything, slice(4, None), everything)],
    ]
