"""The usual needle heatmap: length by depth, depth 0 on top, fixed scale, grey where there is no score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextgraft.report.charts.theme import GREY, heat, square_text
from contextgraft.report.data.sample_browser import link
from contextgraft.report.statistics.cells import (
    Cell,
    ModelKey,
    NeedleCondition,
    ScoreGroup,
    cell,
    needles,
    singles,
)
from contextgraft.report.tables.wording import DASH, between, percent, thousands, trimmed

STEP_X = 92
STEP_Y = 46
WIDEST = 640
BANDS = {"paddingInner": 0.04, "paddingOuter": 0}


@dataclass(frozen=True)
class HeatmapSquare:
    """A square of a heatmap: length, depth, score, and a link to its samples."""

    length: int
    depth: float
    cell: Cell
    link: str | None = None


def squares(
    groups: Sequence[ScoreGroup],
    model: ModelKey,
    condition: NeedleCondition,
    filters: Mapping[str, object],
) -> list[HeatmapSquare]:
    """Every length and depth of the study's needles for one model; `filters` select its samples."""
    grid = singles(groups)
    lengths = sorted({group.length for group in grid if group.length is not None})
    depths = sorted({group.depth for group in grid if group.depth is not None})
    own: dict[tuple[int | None, float | None], list[ScoreGroup]] = {}
    for group in needles(groups, model, condition):
        own.setdefault((group.length, group.depth), []).append(group)
    return [
        HeatmapSquare(
            length,
            depth,
            cell(own.get((length, depth), ())),
            link(**filters, length=length, depth=depth),
        )
        for length in lengths
        for depth in depths
    ]


def spec(grid: Sequence[HeatmapSquare], title: str | None = None) -> dict[str, Any]:
    """The chart; each length is labelled with the number of tokens that the prompts have."""
    lengths = sorted({square.length for square in grid})
    depths = sorted({square.depth for square in grid})
    labels = {length: _tokens(length, grid) for length in lengths}
    linked = any(square.link for square in grid)
    step = max(1, min(STEP_X, WIDEST // max(len(lengths), 1)))
    axes = {
        "x": {
            "field": "tokens",
            "type": "ordinal",
            "sort": [labels[length] for length in lengths],
            "scale": BANDS,
            "axis": {
                "labelExpr": "split(datum.label, '|')",
                "labelAngle": 0,
                "title": "tokens (in the prompt)",
                "grid": False,
                "ticks": False,
                "domain": False,
            },
        },
        "y": {
            "field": "depth",
            "type": "ordinal",
            "sort": list(depths),
            "scale": BANDS,
            "axis": {"title": "depth, %", "format": "~r", "ticks": False, "domain": False},
        },
    }
    chart = {
        "width": {"step": step},
        "height": {"step": STEP_Y},
        "data": {"values": [_values(square, labels[square.length]) for square in grid]},
        "encoding": axes,
        "layer": [
            {
                "mark": {"type": "rect", "cornerRadius": 3},
                "encoding": {
                    "color": {"field": "fill", "type": "nominal", "scale": None},
                    "description": {"field": "text", "type": "nominal"},
                    **({"href": {"field": "link", "type": "nominal"}} if linked else {}),
                },
            },
            square_text("share", dy=-7, size=13, weight=600),
            square_text("size", dy=10, size=10.5, weight=400),
        ],
    }
    return chart | {"title": title} if title else chart


def summary(grid: Sequence[HeatmapSquare]) -> str:
    """The chart in words, by length."""
    lengths = sorted({square.length for square in grid})
    return "; ".join(f"{thousands(length)} tokens {_range(length, grid)}" for length in lengths)


def _range(length: int, grid: Sequence[HeatmapSquare]) -> str:
    scores = [square.cell.proportion.score for square in grid if square.length == length]
    shown = [score for score in scores if score is not None]
    if not shown:
        return "not scored"
    return f"{percent(min(shown))} to {percent(max(shown))} by depth"


def _tokens(length: int, grid: Sequence[HeatmapSquare]) -> str:
    shortest = [
        s.cell.proportion.shortest
        for s in grid
        if s.length == length and s.cell.proportion.shortest is not None
    ]
    longest = [
        s.cell.proportion.longest
        for s in grid
        if s.length == length and s.cell.proportion.longest is not None
    ]
    if not shortest or not longest:
        return thousands(length)
    low, high = min(shortest), max(longest)
    actual = thousands(low) if low == high else f"{thousands(low)}{DASH}{thousands(high)}"
    return f"{thousands(length)}|({actual})"


def _values(square: HeatmapSquare, tokens: str) -> dict[str, Any]:
    proportion = square.cell.proportion
    position = f"{thousands(square.length)} tokens, depth {square.depth:g} %"
    common = {"tokens": tokens, "depth": square.depth, "link": square.link}
    if proportion.score is None:
        status = proportion.unscored_reason.split(":")[0]
        return common | {
            "fill": GREY,
            "share": DASH,
            "size": status,
            "text": f"{position}: {proportion.unscored_reason}",
        }
    unscored = f", not scored: {proportion.unscored_reason}" if proportion.unscored else ""
    text = (
        f"{position}: {percent(proportion.score)} {between(proportion.interval)}, n={proportion.n}{unscored}"
    )
    size = f"n={proportion.n}" + (f" of {proportion.total}" if proportion.unscored else "")
    return common | {
        "fill": heat(proportion.score),
        "share": trimmed(100 * proportion.score),
        "size": size,
        "text": text,
    }
