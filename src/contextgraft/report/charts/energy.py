"""Energy by rank: the share of the long-context delta that an adapter captures."""

from collections.abc import Sequence
from typing import Any

from contextgraft.report.charts.label_positions import spaced
from contextgraft.report.charts.panel import PERCENT_LABEL
from contextgraft.report.charts.theme import PALETTE, kind_colour
from contextgraft.report.statistics.weights import ALL_MODULES, RankEnergy
from contextgraft.report.tables.wording import percent

WIDTH = 230
HEIGHT = 250
GAP = 0.062


def spec(energies: Sequence[RankEnergy], title: str | None = None) -> dict[str, Any]:
    """One line for each kind of module, a thick one for all modules."""
    kinds = list(dict.fromkeys(item.kind for item in energies))
    ranks = sorted({item.rank for item in energies})
    lines = [_line([item for item in energies if item.kind == kind], kind, ranks) for kind in reversed(kinds)]
    chart = {
        "width": WIDTH,
        "height": HEIGHT,
        "layer": [layer for line in lines for layer in line] + _names(energies),
    }
    return chart | {"title": title} if title else chart


def colour(kind: str) -> str:
    """Colour of the line of one kind of module."""
    return PALETTE["ink"] if kind == ALL_MODULES else kind_colour(kind)


def _line(points: Sequence[RankEnergy], kind: str, ranks: Sequence[int]) -> list[dict[str, Any]]:
    strong = kind == ALL_MODULES
    values = [
        {
            "rank": item.rank,
            "share": item.mean,
            "text": f"{kind}, rank {item.rank}: {percent(item.mean)} of the energy",
        }
        for item in points
    ]
    encoding = {
        "x": {
            "field": "rank",
            "type": "ordinal",
            "scale": {"domain": list(ranks), "type": "point", "padding": 0.5},
            "axis": {"labelAngle": 0, "title": "rank of the adapter", "grid": False},
        },
        "y": {
            "field": "share",
            "type": "quantitative",
            "scale": {"domain": [0, 1], "nice": False},
            "axis": {"values": [0, 0.25, 0.5, 0.75, 1], "labelExpr": PERCENT_LABEL, "title": "energy held"},
        },
        "description": {"field": "text", "type": "nominal"},
    }
    data = {"values": values}
    return [
        {
            "data": data,
            "mark": {"type": "line", "color": colour(kind), "strokeWidth": 3 if strong else 1.5},
            "encoding": encoding,
        },
        {
            "data": data,
            "mark": {"type": "circle", "color": colour(kind), "size": 60 if strong else 34, "opacity": 1},
            "encoding": encoding,
        },
    ]


def _names(energies: Sequence[RankEnergy]) -> list[dict[str, Any]]:
    """Names at the right end of the lines, without overlap."""
    last = max((item.rank for item in energies), default=0)
    ends = sorted((item for item in energies if item.rank == last), key=lambda item: item.mean)
    positions = spaced([item.mean for item in ends], GAP)
    return [
        {
            "data": {"values": [{"share": position, "label": f"{item.kind} {100 * item.mean:.0f} %"}]},
            "mark": {
                "type": "text",
                "align": "left",
                "dx": 4,
                "color": colour(item.kind),
                "fontWeight": 600 if item.kind == ALL_MODULES else 400,
                "aria": False,
            },
            "encoding": {
                "x": {"value": WIDTH},
                "y": {"field": "share", "type": "quantitative"},
                "text": {"field": "label", "type": "nominal"},
            },
        }
        for item, position in zip(ends, positions, strict=True)
    ]
