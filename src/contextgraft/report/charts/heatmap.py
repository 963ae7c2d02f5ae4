"""The conventional needle heatmap: tokens by depth, 0 on top, fixed scale, grey where there is no score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextgraft.report.charts.theme import GREY, ON_HEAT, heat
from contextgraft.report.data.links import link
from contextgraft.report.statistics.cells import Cell, Condition, Fact, Who, cell, needles
from contextgraft.report.tables.wording import DASH, between, percent, thousands, trimmed

STEP_X = 92
STEP_Y = 46
WIDEST = 640
BANDS = {"paddingInner": 0.04, "paddingOuter": 0}


@dataclass(frozen=True)
class Square:
    """One cell of a heatmap."""

    length: int
    depth: float
    cell: Cell
    link: str | None = None


def squares(
    facts: Sequence[Fact],
    row: tuple[Who, Condition],
    lengths: Sequence[int],
    depths: Sequence[float],
    chosen: Mapping[str, object],
) -> list[Square]:
    """Every cell of one row, also those that were not asked; `chosen` filters the samples of the row."""
    own = needles(facts, *row)
    return [
        Square(
            length,
            depth,
            cell(item for item in own if (item.length, item.depth) == (length, depth)),
            link(**chosen, length=length, depth=depth),
        )
        for length in lengths
        for depth in depths
    ]


def spec(grid: Sequence[Square], title: str | None = None) -> dict[str, Any]:
    """The chart; each length is labelled with the tokens that prompts really had."""
    lengths = sorted({square.length for square in grid})
    depths = sorted({square.depth for square in grid})
    labels = {length: _tokens(length, grid) for length in lengths}
    linked = any(square.link for square in grid)
    step = min(STEP_X, WIDEST // max(len(lengths), 1))
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
            _line("share", -7, 13, 600),
            _line("size", 10, 10.5, 400),
        ],
    }
    return chart | {"title": title} if title else chart


def summary(grid: Sequence[Square]) -> str:
    """The chart in words, by length."""
    lengths = sorted({square.length for square in grid})
    return "; ".join(f"{thousands(length)} tokens {_range(length, grid)}" for length in lengths)


def _range(length: int, grid: Sequence[Square]) -> str:
    scores = [square.cell.tally.score for square in grid if square.length == length]
    shown = [score for score in scores if score is not None]
    if not shown:
        return "not scored"
    return f"{percent(min(shown))} to {percent(max(shown))} by depth"


def _line(field: str, dy: float, size: float, weight: int) -> dict[str, Any]:
    return {
        "mark": {
            "type": "text",
            "dy": dy,
            "fontSize": size,
            "fontWeight": weight,
            "color": ON_HEAT,
            "aria": False,
        },
        "encoding": {"text": {"field": field, "type": "nominal"}},
    }


def _tokens(length: int, grid: Sequence[Square]) -> str:
    shortest = [
        s.cell.tally.shortest for s in grid if s.length == length and s.cell.tally.shortest is not None
    ]
    longest = [s.cell.tally.longest for s in grid if s.length == length and s.cell.tally.longest is not None]
    if not shortest or not longest:
        return thousands(length)
    low, high = min(shortest), max(longest)
    realised = thousands(low) if low == high else f"{thousands(low)}{DASH}{thousands(high)}"
    return f"{thousands(length)}|({realised})"


def _values(square: Square, tokens: str) -> dict[str, Any]:
    tally = square.cell.tally
    place = f"{thousands(square.length)} tokens, depth {square.depth:g} %"
    common = {"tokens": tokens, "depth": square.depth, "link": square.link}
    if tally.score is None:
        word = tally.gap.split(":")[0]
        return common | {"fill": GREY, "share": DASH, "size": word, "text": f"{place}: {tally.gap}"}
    unscored = f", not scored: {tally.gap}" if tally.unscored else ""
    text = f"{place}: {percent(tally.score)} {between(tally.interval)}, n={tally.n}{unscored}"
    size = f"n={tally.n}" + (f" of {tally.asked}" if tally.unscored else "")
    return common | {
        "fill": heat(tally.score),
        "share": trimmed(100 * tally.score),
        "size": size,
        "text": text,
    }
