"""Which queries of a rank see which keys of another, as tiles that kernels without masks compute.

A tile is a rectangle of which everything is seen, or a square of which a triangle is. Documents cut causal
attention into smaller triangles and rectangles. A sliding window cuts it into bands; the end of a band is a
triangle in which each query sees the key at its own index and the later ones: causal attention backwards.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ALL = slice(None)


class Tile(NamedTuple):
    """Rows of a batch, queries and keys by their index in the shards of two ranks.

    With `causal` the query at index i sees keys 0 to i of the tile, and keys i and later if it is `reversed`.
    """

    rows: slice
    queries: slice
    keys: slice
    causal: bool = False
    reversed: bool = False


WHOLE = Tile(ALL, ALL, ALL, causal=True)  # the shard of a rank and itself, without documents and windows


class AttentionSpan(NamedTuple):
    """What limits causal attention: the window in tokens, and where documents begin in each row.

    A window counts the query's own token. The first document of a row begins at 0.
    """

    window: int | None = None
    starts: Sequence[Sequence[int]] | None = None


class ShardPair(NamedTuple):
    """Zig-zag shards of two ranks: their indices in the ring, its size, and tokens of half a shard."""

    queries: int
    keys: int
    ring: int
    half: int


class Range(NamedTuple):
    """Positions from `begin` up to, but not including, `end`."""

    begin: int
    end: int

    @property
    def size(self) -> int:
        """Number of positions; not positive if there are none."""
        return self.end - self.begin

    def within(self, begin: int, end: int) -> "Range":
        """The positions that are in another range too."""
        return Range(max(self.begin, begin), min(self.end, end))


def tiles(pair: ShardPair, span: AttentionSpan) -> Iterator[Tile]:
    """Tiles that together have every pair of query and key that may attend, once.

    Without documents and windows there is one: a shard sees itself causally; all queries see the front half
    of an earlier shard; the back half of the queries sees all of a later shard.
    """
    if span.window is not None or span.starts is not None:
        yield from _limited_tiles(pair, span)
    elif pair.keys == pair.queries:
        yield WHOLE
    elif pair.keys < pair.queries:
        yield Tile(ALL, ALL, slice(0, pair.half))
    else:
        yield Tile(ALL, slice(pair.half, None), ALL)


def _limited_tiles(pair: ShardPair, span: AttentionSpan) -> Iterator[Tile]:
    rows = [(ALL, (0,))] if span.starts is None else [
        (slice(row, row + 1), starts) for row, starts in enumerate(span.starts)
    ]  # fmt: skip
    for queries, first_query in _halves(pair.queries, pair):
        for keys, first_key in _halves(pair.keys, pair):
            for selected, starts in rows:
                for tile in _tiles_of_halves(queries, keys, starts, span.window):
                    yield tile._replace(
                        rows=selected,
                        queries=_moved(tile.queries, first_query - queries.begin),
                        keys=_moved(tile.keys, first_key - keys.begin),
                    )


def _halves(index: int, pair: ShardPair) -> list[tuple[Range, int]]:
    """The positions of both halves of a shard, and where each half begins in the shard."""
    begins = index * pair.half, (2 * pair.ring - 1 - index) * pair.half
    return [(Range(begin, begin + pair.half), number * pair.half) for number, begin in enumerate(begins)]


def _moved(positions: slice, by: int) -> slice:
    return slice(positions.start + by, positions.stop + by)


def _tiles_of_halves(
    queries: Range, keys: Range, starts: Sequence[int], window: int | None
) -> Iterator[Tile]:
    """Tiles by position, of two ranges that are the same or do not overlap."""
    number = bisect_right(starts, queries.begin) - 1
    while number < len(starts) and starts[number] < queries.end:
        end = starts[number + 1] if number + 1 < len(starts) else queries.end
        some_queries, some_keys = (whole.within(starts[number], end) for whole in (queries, keys))
        if queries == keys:
            yield from _triangle(some_queries, window)
        elif keys.end <= queries.begin and some_keys.size > 0:
            yield from _band(some_queries, some_keys, window)
        if keys != queries:  # only the first document of the queries can have begun in earlier keys
            return
        number += 1


def _triangle(positions: Range, window: int | None) -> Iterator[Tile]:
    """Causal attention of a range on itself: squares as wide as the window, each with the one before."""
    size = positions.size if window is None else window
    for begin in range(positions.begin, positions.end, size):
        square = Range(begin, min(begin + size, positions.end))
        yield _tile(square, square, causal=True)
        yield from _band(square, Range(begin - size, begin).within(*positions), window)


def _band(queries: Range, keys: Range, window: int | None) -> Iterator[Tile]:
    """Attention on earlier keys: query i sees those from i - window + 1 on."""
    if keys.size <= 0:
        return
    if window is None:
        yield _tile(queries, keys)
        return
    seeing_all = queries.within(queries.begin, keys.begin + window)
    if seeing_all.size > 0:
        yield _tile(seeing_all, keys)
    some = queries.within(keys.begin + window, keys.end + window - 1)
    if some.size > 0:
        first = some.begin - window + 1
        yield _tile(some, Range(first, first + some.size), causal=True, reversed_=True)
        rest = Range(first + some.size, keys.end)
        if rest.size > 0:
            yield _tile(some, rest)


def _tile(queries: Range, keys: Range, *, causal: bool = False, reversed_: bool = False) -> Tile:
    return Tile(ALL, slice(*queries), slice(*keys), causal, reversed_)
