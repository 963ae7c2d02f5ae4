"""Places for labels beside lines, near what they name and not over each other: pure."""

from collections.abc import Sequence


def spaced(values: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Places near ascending `values`, at least `gap` apart, inside [low, high] as long as there is room.

    Least squares: the gaps are taken out, what is then out of order is averaged (pool adjacent violators),
    and the gaps are put back.
    """
    blocks: list[tuple[float, int]] = []
    for index, value in enumerate(values):
        blocks.append((value - index * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (left, many), (right, more) = blocks[-2:]
            blocks[-2:] = [((left * many + right * more) / (many + more), many + more)]
    level = [place for place, count in blocks for _ in range(count)]
    top = high - (len(level) - 1) * gap
    return [min(max(place, low), max(top, low)) + index * gap for index, place in enumerate(level)]
