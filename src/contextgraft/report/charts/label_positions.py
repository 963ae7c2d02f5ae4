"""Positions of labels next to lines, near their line and without overlap: pure."""

from collections.abc import Sequence


def spaced(values: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Positions near ascending `values`, at least `gap` apart, inside [low, high] if they fit.

    Least squares: the gaps are subtracted, values that are then out of order are averaged (pool adjacent
    violators), and the gaps are added again.
    """
    blocks: list[tuple[float, int]] = []
    for index, value in enumerate(values):
        blocks.append((value - index * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (left, many), (right, more) = blocks[-2:]
            blocks[-2:] = [((left * many + right * more) / (many + more), many + more)]
    level = [value for value, count in blocks for _ in range(count)]
    top = high - (len(level) - 1) * gap
    return [min(max(value, low), max(top, low)) + index * gap for index, value in enumerate(level)]
