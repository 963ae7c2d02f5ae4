"""Charts by layer and kind of module: energy as small heatmaps, alignment as lines."""

from collections.abc import Sequence
from typing import Any

from contextgraft.formats.read_alignment import LayerAlignment
from contextgraft.formats.tensor_names import kind_order
from contextgraft.report.charts.theme import PALETTE, kind_colour, shade
from contextgraft.report.statistics.weights import LayerEnergy
from contextgraft.report.tables.wording import percent

WIDEST = 300
ROW = 900
MARGIN = 66  # names of the modules, and the gap
STEP_Y = 17
LINES = (115, 70)


def energy(items: Sequence[LayerEnergy], rank: int) -> dict[str, Any]:
    """One rank: layers across, kinds of module down; darker where more of the delta is captured."""
    own = [item for item in items if item.rank == rank]
    layers = sorted({item.layer for item in items})
    kinds = sorted({item.kind for item in items}, key=kind_order)
    values = [
        {
            "layer": item.layer,
            "kind": item.kind,
            "fill": shade(item.mean),
            "text": f"rank {rank}, layer {item.layer}, {item.kind}: {percent(item.mean)} of the energy",
        }
        for item in own
    ]
    return {
        "title": {"text": f"rank {rank}", "fontSize": 12, "fontWeight": "normal", "offset": 4},
        "width": {"step": _step(len(layers))},
        "height": {"step": STEP_Y},
        "data": {"values": values},
        "mark": {"type": "rect"},
        "encoding": {
            "x": {
                "field": "layer",
                "type": "ordinal",
                "scale": {"domain": layers, "padding": 0.05},
                "axis": {
                    "labelAngle": 0,
                    "labelOverlap": True,
                    "ticks": False,
                    "domain": False,
                    "title": "layer",
                },
            },
            "y": {
                "field": "kind",
                "type": "ordinal",
                "scale": {"domain": kinds, "padding": 0.05},
                "axis": {"title": None, "ticks": False, "domain": False},
            },
            "color": {"field": "fill", "type": "nominal", "scale": None},
            "description": {"field": "text", "type": "nominal"},
        },
    }


def _step(layers: int) -> int:
    """Width of a square, in pixels: small where there are many layers."""
    return max(3, min(22, WIDEST // max(layers, 1)))


def energies(items: Sequence[LayerEnergy]) -> dict[str, Any]:
    """All ranks next to each other."""
    ranks = sorted({item.rank for item in items})
    layers = {item.layer for item in items}
    return {
        "concat": [energy(items, rank) for rank in ranks],
        "columns": max(2, ROW // (_step(len(layers)) * len(layers) + MARGIN)),
        "spacing": {"row": 18, "column": 22},
    }


def alignment(items: Sequence[LayerAlignment], reach: float) -> dict[str, Any]:
    """Cosines of one fine-tune and donor, a panel for each kind of module.

    The band is chance: 95 % of random directions are inside.
    """
    kinds = sorted({item.kind for item in items if item.layer is not None}, key=kind_order)
    panels = [
        _panel([item for item in items if item.kind == kind and item.layer is not None], kind, reach)
        for kind in kinds
    ]
    return {"concat": panels, "columns": 4, "spacing": {"row": 16, "column": 18}}


def reach(items: Sequence[LayerAlignment]) -> float:
    """The smallest multiple of a tenth that exceeds every cosine and every band."""
    largest = max((max(abs(item.cosine), item.chance) for item in items), default=0.0)
    return min(1.0, (int(10 * largest) + 1) / 10)


def _panel(items: Sequence[LayerAlignment], kind: str, ends: float) -> dict[str, Any]:
    values = [
        {
            "layer": item.layer,
            "cosine": item.cosine,
            "low": -item.chance,
            "high": item.chance,
            "text": f"layer {item.layer}, {item.kind}: cosine {item.cosine:+.3f}, chance ±{item.chance:.3f}",
        }
        for item in items
    ]
    x = {
        "field": "layer",
        "type": "quantitative",
        "scale": {"nice": False, "padding": 6},
        "axis": {"grid": False, "title": "layer", "format": "d", "tickMinStep": 1, "tickCount": 4},
    }
    y = {
        "field": "cosine",
        "type": "quantitative",
        "scale": {"domain": [-ends, ends], "nice": False},
        "axis": {"values": [-ends, 0, ends], "title": None, "format": "+.1f"},
    }
    text = {"field": "text", "type": "nominal"}
    colour = kind_colour(kind)
    return {
        "title": {"text": kind, "fontSize": 12, "offset": 4},
        "width": LINES[0],
        "height": LINES[1],
        "data": {"values": values},
        "layer": [
            {
                "mark": {"type": "area", "color": PALETTE["aim"], "opacity": 0.3, "aria": False},
                "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
            },
            {"mark": {"type": "line", "color": colour}, "encoding": {"x": x, "y": y, "description": text}},
            {
                "mark": {"type": "circle", "color": colour, "size": 30, "opacity": 1},
                "encoding": {"x": x, "y": y, "description": text},
            },
        ],
    }
