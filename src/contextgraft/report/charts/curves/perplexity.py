"""Perplexity by position: a line for each model, with its interval over documents."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Any

from contextgraft.report.charts.curves.lines import HEIGHT, WIDTH, EndLabel, banded_line, end_labels
from contextgraft.report.statistics.means import PerplexityRange
from contextgraft.report.tables.wording import thousands

MIN_MARGIN = 1.25


@dataclass(frozen=True)
class Curve:
    """One line: its name, its colour of the palette, its points by position."""

    name: str
    colour: str
    dash: tuple[int, int]
    points: tuple[PerplexityRange, ...]


def spec(curves: Sequence[Curve], title: str | None = None) -> dict[str, Any]:
    """The chart; both axes are logarithmic."""
    shown = [curve for curve in curves if curve.points]
    chart = {
        "width": WIDTH,
        "height": HEIGHT,
        "layer": [layer for curve in shown for layer in _line(curve, _ends(shown))] + _names(shown),
    }
    return chart | {"title": title} if title else chart


def summary(curves: Sequence[Curve]) -> str:
    """The chart in words: each line at its first and last position."""
    return "; ".join(
        f"{curve.name} {three_digits(curve.points[0].perplexity)} "
        f"to {three_digits(curve.points[-1].perplexity)}"
        for curve in curves
        if curve.points
    )


def three_digits(value: float) -> str:
    """A perplexity with three significant digits; one of 100 or more without decimals."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _ends(curves: Sequence[Curve]) -> tuple[float, float, int, int]:
    """Lowest and highest perplexity of the panel, first and last position.

    The panel contains every point, and the intervals as far as they leave the points distinguishable.
    """
    points = [point for curve in curves for point in curve.points]
    low, high = (pick(point.perplexity for point in points) for pick in (min, max))
    margin = max(sqrt(high / low), MIN_MARGIN)
    pairs = [point.interval for point in points if point.interval]
    below, above = (
        min((pair[0] for pair in pairs), default=low),
        max((pair[1] for pair in pairs), default=high),
    )
    positions = [point.position or 1 for point in points]
    return max(below, low / margin) / 1.03, min(above, high * margin) * 1.03, min(positions), max(positions)


def _line(curve: Curve, ends: tuple[float, float, int, int]) -> list[dict[str, Any]]:
    low, high, first, last = ends
    values = [
        {
            "position": point.position,
            "perplexity": point.perplexity,
            # what leaves the panel is cut there; the mark's text has the whole interval
            "low": max(point.interval[0], low) if point.interval else point.perplexity,
            "high": min(point.interval[1], high) if point.interval else point.perplexity,
            "text": f"{curve.name}, up to token {thousands(point.position or 0)}: {_interval_text(point)}",
        }
        for point in curve.points
    ]
    powers = (2**exponent for exponent in range(first.bit_length() - 1, last.bit_length()))
    encoding: dict[str, dict[str, Any]] = {
        "x": {
            "field": "position",
            "type": "quantitative",
            "scale": {"type": "log", "base": 2, "domain": [first, last], "nice": False},
            "axis": {
                "title": "position of the predicted token, up to",
                "grid": False,
                "values": [power for power in powers if first <= power <= last],
                "format": ",d",
                "labelOverlap": True,
            },
        },
        "y": {
            "field": "perplexity",
            "type": "quantitative",
            "scale": {"type": "log", "domain": [low, high], "nice": False},
            "axis": {"title": "perplexity", "tickCount": 5, "format": "~s"},
        },
        "description": {"field": "text", "type": "nominal"},
    }
    return banded_line(values, curve.colour, curve.dash, encoding)


def _interval_text(point: PerplexityRange) -> str:
    """`12.3 [11.9, 12.8], n=8 documents`."""
    pair = point.interval
    between = f" [{three_digits(pair[0])}, {three_digits(pair[1])}]" if pair else ""
    documents = f"n={point.nats.n} document{'' if point.nats.n == 1 else 's'}"
    return f"{three_digits(point.perplexity)}{between}, {documents}"


def _names(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Names at the right end of the lines."""
    if not curves:
        return []
    low, high, _, _ = _ends(curves)
    span = log(high / low) or 1.0
    names = [(curve, curve.points[-1].perplexity) for curve in curves]
    labels = [
        EndLabel(f"{curve.name} {three_digits(value)}", curve.colour, log(value / low) / span)
        for curve, value in names
    ]
    return end_labels(labels)
