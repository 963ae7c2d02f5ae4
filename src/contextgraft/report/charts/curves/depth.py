"""Needles found by depth at one length: a line for each model, with its interval at every depth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextgraft.report.charts.curves.lines import HEIGHT, WIDTH, EndLabel, banded_line, end_labels
from contextgraft.report.charts.panel import PERCENT_LABEL, quantity
from contextgraft.report.statistics.cells import Cell
from contextgraft.report.tables.wording import measured, percent


@dataclass(frozen=True)
class DepthCurve:
    """One line: its name, its colour, its dashes, and its scored cells by depth in percent."""

    name: str
    colour: str
    dash: tuple[int, int]
    cells: Mapping[float, Cell]

    @property
    def scores(self) -> list[float]:
        """The shares, by depth."""
        return [self.cells[depth].proportion.score or 0.0 for depth in sorted(self.cells)]


def spec(curves: Sequence[DepthCurve]) -> dict[str, Any]:
    """The chart: depth from the beginning of the text to the question, shares on the scale from 0 to 1."""
    depths = sorted({depth for curve in curves for depth in curve.cells})
    encoding: dict[str, dict[str, Any]] = {
        "x": {
            "field": "depth",
            "type": "quantitative",
            "scale": {"domain": [depths[0], depths[-1]], "nice": False},
            "axis": {"title": "depth, %", "values": depths, "grid": False, "labelOverlap": True},
        },
        "y": quantity(
            "share",
            [0, 1],
            {"values": [0, 0.25, 0.5, 0.75, 1], "labelExpr": PERCENT_LABEL, "title": "needles found"},
        ),
        "description": {"field": "text", "type": "nominal"},
    }
    lines = [
        layer for curve in curves for layer in banded_line(_points(curve), curve.colour, curve.dash, encoding)
    ]
    names = [
        EndLabel(f"{curve.name} {percent(curve.scores[-1])}", curve.colour, curve.scores[-1])
        for curve in curves
    ]
    return {"width": WIDTH, "height": HEIGHT, "layer": lines + end_labels(names)}


def summary(curves: Sequence[DepthCurve]) -> str:
    """The chart in words: the range of each line."""
    return "; ".join(
        f"{curve.name} {percent(min(curve.scores))} to {percent(max(curve.scores))}" for curve in curves
    )


def _points(curve: DepthCurve) -> list[dict[str, Any]]:
    return [
        {
            "depth": depth,
            "share": cell.proportion.score,
            "low": cell.proportion.interval[0],
            "high": cell.proportion.interval[1],
            "text": f"{curve.name}, depth {depth:g} %: {measured(cell)}",
        }
        for depth, cell in sorted(curve.cells.items())
    ]
