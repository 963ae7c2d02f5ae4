"""Effect of rank: needles found and skill kept by the grafts of one fine-tune, beside its controls."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from contextgraft.report.charts.labels import spaced
from contextgraft.report.charts.panel import (
    PERCENT_LABEL,
    SIGNED_LABEL,
    WIDTH,
    level,
    marks,
    panel,
    quantity,
    series,
)
from contextgraft.report.charts.theme import PALETTE
from contextgraft.report.statistics.cells import Cell
from contextgraft.report.statistics.study_table import FineTune, Row
from contextgraft.report.statistics.verdict import CAME, POINTS
from contextgraft.report.tables.wording import between_points, measured, percent, signed

NEEDLE_HEIGHT = 190
SKILL_HEIGHT = 74
GAP = 0.085
LEAST_LOSS = 12.0
LEAST_GAIN = 4.0
STRIDE = 25.0


@dataclass(frozen=True)
class Axes:
    """What the charts of all fine-tunes share: ranks, and how far skill may fall and rise, in points."""

    ranks: tuple[int, ...]
    loss: float
    gain: float


def axes(tunes: Sequence[FineTune]) -> Axes:
    """Axes that hold every graft; the usual small range of the skill unless some graft leaves it."""
    grafts = [row for tune in tunes for row in tune.grafts]
    points = [row.step.points for row in grafts if row.step is not None]
    return Axes(
        ranks=tuple(sorted({row.who.rank for row in grafts})),
        loss=_reach(-min(points, default=0.0), LEAST_LOSS),
        gain=_reach(max(points, default=0.0), LEAST_GAIN),
    )


def spec(tune: FineTune, shared: Axes, donor: Row | None, title: str | None = None) -> dict[str, Any]:
    """Both panels of one fine-tune."""
    chart = {"vconcat": [_needles(tune, shared.ranks, donor), _skills(tune, shared)], "spacing": 14}
    return chart | {"title": title} if title else chart


def together(specs: Sequence[dict[str, Any]], title: str) -> dict[str, Any]:
    """The fine-tunes side by side in one picture."""
    heading = {"text": title, "fontSize": 17, "offset": 18}
    return {"title": heading, "concat": list(specs), "columns": 2 if len(specs) in {2, 4} else 3}


def controls(tune: FineTune, donor: Row | None) -> list[tuple[str, Cell]]:
    """The rows drawn as level lines, where they were measured."""
    rows = {"alone": tune.alone, "theta": tune.theta, "donor": donor}
    return [(name, row.long) for name, row in rows.items() if row is not None and row.long.tally.n]


def _needles(tune: FineTune, ranks: Sequence[int], donor: Row | None) -> dict[str, Any]:
    points = [
        {
            "rank": row.who.rank,
            "share": row.long.tally.score,
            "low": row.long.tally.interval[0],
            "high": row.long.tally.interval[1],
            "text": f"rank {row.who.rank}: {measured(row.long)}",
        }
        for row in tune.grafts
        if row.long.tally.score is not None
    ]
    seeds = [
        {
            "rank": row.who.rank,
            "share": tally.score,
            "text": f"rank {row.who.rank}, one donor: {percent(tally.score)}",
        }
        for row in tune.grafts
        for _, tally in row.long.by_donor
        if tally.score is not None and row.long.spread is not None
    ]
    y = quantity(
        "share",
        [0, 1],
        {"values": [0, 0.25, 0.5, 0.75, CAME], "labelExpr": PERCENT_LABEL, "title": "needles found"},
    )
    levels = [
        level(CAME, PALETTE["aim"], [2, 3], "95 %: the context came"),
        *_control_layers(controls(tune, donor)),
    ]
    ring = {"type": "point", "size": 22, "color": PALETTE["needle"], "opacity": 0.55, "strokeWidth": 1}
    return panel(
        levels, [marks(seeds, ring, y), *series(points, PALETTE["needle"], y)], ranks, NEEDLE_HEIGHT, None
    )


def _skills(tune: FineTune, shared: Axes) -> dict[str, Any]:
    points = [
        {
            "rank": row.who.rank,
            "share": row.step.points,
            # what leaves the panel is cut there; the mark tells the whole interval
            "low": max(row.step.low, -shared.loss),
            "high": min(row.step.high, shared.gain),
            "text": f"rank {row.who.rank}: skill {signed(row.step.points)} points {between_points(row.step)}",
        }
        for row in tune.grafts
        if row.step is not None
    ]
    axis = {
        "values": [-shared.loss, -shared.loss / 2, 0, *([shared.gain] if shared.gain > LEAST_GAIN else [])],
        "labelExpr": SIGNED_LABEL,
        "title": "skill, points",
    }
    y = quantity("share", [-shared.loss, shared.gain], axis)
    lost = level(-POINTS, PALETTE["aim"], [2, 3], f"{POINTS:g} points lost: the most that counts as kept")
    return panel(
        [lost], series(points, PALETTE["skill"], y), shared.ranks, SKILL_HEIGHT, "rank of the adapter"
    )


def _reach(points: float, least: float) -> float:
    """The usual reach of an axis, or the next multiple of the stride that holds all points."""
    return least if points <= least else STRIDE * ceil(points / STRIDE)


DASHES = {"alone": [1, 3], "theta": [6, 3], "donor": [1, 0]}
TITLES = {"alone": "alone", "theta": "theta only", "donor": "donor"}


def _control_layers(shown: Sequence[tuple[str, Cell]]) -> list[dict[str, Any]]:
    """A level line for each control, named at its right end."""
    ordered = sorted(shown, key=lambda item: item[1].tally.score or 0.0)
    shares = [item.tally.score or 0.0 for _, item in ordered]
    layers = []
    for (name, item), share, place in zip(ordered, shares, spaced(shares, GAP), strict=True):
        text = f"{TITLES[name]}: {measured(item)}"
        layers.append(level(share, PALETTE[name], DASHES[name], text))
        label = f"{TITLES[name]} {percent(share)}"
        layers.append(
            {
                "data": {"values": [{"share": place, "label": label}]},
                "mark": {
                    "type": "text",
                    "align": "left",
                    "dx": 6,
                    "color": PALETTE[name],
                    "fontSize": 12,
                    "aria": False,
                },
                "encoding": {
                    "x": {"value": WIDTH},
                    "y": {"field": "share", "type": "quantitative"},
                    "text": {"field": "label", "type": "nominal"},
                },
            }
        )
    return layers
