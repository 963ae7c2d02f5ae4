"""Effect of rank: needles found and skill kept by the grafts of one fine-tune, with its controls."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from contextgraft.report.charts.label_positions import spaced
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
from contextgraft.report.statistics.study_table import ModelRow, TargetResult
from contextgraft.report.statistics.verdict import MAX_LOST, MIN_FOUND
from contextgraft.report.tables.wording import between_points, measured, percent, signed

NEEDLE_HEIGHT = 190
SKILL_HEIGHT = 74
GAP = 0.085
LEAST_LOSS = 12.0
LEAST_GAIN = 4.0
STRIDE = 25.0


@dataclass(frozen=True)
class Axes:
    """What the charts of all fine-tunes share: ranks, and the range of the skill difference, in points."""

    ranks: tuple[int, ...]
    loss: float
    gain: float


def axes(targets: Sequence[TargetResult]) -> Axes:
    """Axes that contain every graft; the range of the skill is the usual one unless a graft exceeds it."""
    grafts = [row for target in targets for row in target.grafts]
    points = [row.skill_difference.points for row in grafts if row.skill_difference is not None]
    return Axes(
        ranks=tuple(sorted({row.model.rank for row in grafts})),
        loss=_reach(-min(points, default=0.0), LEAST_LOSS),
        gain=_reach(max(points, default=0.0), LEAST_GAIN),
    )


def spec(
    target: TargetResult, shared: Axes, donor: ModelRow | None, title: str | None = None
) -> dict[str, Any]:
    """Both panels of one fine-tune."""
    chart = {"vconcat": [_needles(target, shared.ranks, donor), _skills(target, shared)], "spacing": 14}
    return chart | {"title": title} if title else chart


def side_by_side(specs: Sequence[dict[str, Any]], title: str) -> dict[str, Any]:
    """The charts of all fine-tunes in one."""
    heading = {"text": title, "fontSize": 17, "offset": 18}
    return {"title": heading, "concat": list(specs), "columns": 2 if len(specs) in {2, 4} else 3}


def controls(target: TargetResult, donor: ModelRow | None) -> list[tuple[str, Cell]]:
    """The rows drawn as horizontal lines, if they were measured."""
    rows = {"alone": target.alone, "theta": target.theta, "donor": donor}
    return [(name, row.long) for name, row in rows.items() if row is not None and row.long.proportion.n]


def _needles(target: TargetResult, ranks: Sequence[int], donor: ModelRow | None) -> dict[str, Any]:
    points = [
        {
            "rank": row.model.rank,
            "share": row.long.proportion.score,
            "low": row.long.proportion.interval[0],
            "high": row.long.proportion.interval[1],
            "text": f"rank {row.model.rank}: {measured(row.long)}",
        }
        for row in target.grafts
        if row.long.proportion.score is not None
    ]
    single_donors = [
        {
            "rank": row.model.rank,
            "share": proportion.score,
            "text": f"rank {row.model.rank}, one donor: {percent(proportion.score)}",
        }
        for row in target.grafts
        for _, proportion in row.long.by_donor
        if proportion.score is not None and row.long.spread is not None
    ]
    y = quantity(
        "share",
        [0, 1],
        {"values": [0, 0.25, 0.5, 0.75, MIN_FOUND], "labelExpr": PERCENT_LABEL, "title": "needles found"},
    )
    levels = [
        level(MIN_FOUND, PALETTE["aim"], [2, 3], "95 % found: the long context works"),
        *_control_layers(controls(target, donor)),
    ]
    ring = {"type": "point", "size": 22, "color": PALETTE["needle"], "opacity": 0.55, "strokeWidth": 1}
    return panel(
        levels,
        [marks(single_donors, ring, y), *series(points, PALETTE["needle"], y)],
        ranks,
        NEEDLE_HEIGHT,
        None,
    )


def _skills(target: TargetResult, shared: Axes) -> dict[str, Any]:
    points = [
        {
            "rank": row.model.rank,
            "share": row.skill_difference.points,
            # what leaves the panel is cut there; the mark's text has the whole interval
            "low": max(row.skill_difference.low, -shared.loss),
            "high": min(row.skill_difference.high, shared.gain),
            "text": f"rank {row.model.rank}: skill {signed(row.skill_difference.points)} points "
            f"{between_points(row.skill_difference)}",
        }
        for row in target.grafts
        if row.skill_difference is not None
    ]
    axis = {
        "values": [-shared.loss, -shared.loss / 2, 0, *([shared.gain] if shared.gain > LEAST_GAIN else [])],
        "labelExpr": SIGNED_LABEL,
        "title": "skill, points",
    }
    y = quantity("share", [-shared.loss, shared.gain], axis)
    lost = level(-MAX_LOST, PALETTE["aim"], [2, 3], f"{MAX_LOST:g} points lost: the most that counts as kept")
    return panel(
        [lost], series(points, PALETTE["skill"], y), shared.ranks, SKILL_HEIGHT, "rank of the adapter"
    )


def _reach(points: float, least: float) -> float:
    """The usual end of an axis, or the next multiple of the stride that contains all points."""
    return least if points <= least else STRIDE * ceil(points / STRIDE)


DASHES = {"alone": [1, 3], "theta": [6, 3], "donor": [1, 0]}
TITLES = {"alone": "alone", "theta": "theta only", "donor": "donor"}


def _control_layers(shown: Sequence[tuple[str, Cell]]) -> list[dict[str, Any]]:
    """A horizontal line for each control, named at its right end."""
    ordered = sorted(shown, key=lambda item: item[1].proportion.score or 0.0)
    shares = [item.proportion.score or 0.0 for _, item in ordered]
    layers = []
    for (name, item), share, position in zip(ordered, shares, spaced(shares, GAP), strict=True):
        text = f"{TITLES[name]}: {measured(item)}"
        layers.append(level(share, PALETTE[name], DASHES[name], text))
        label = f"{TITLES[name]} {percent(share)}"
        layers.append(
            {
                "data": {"values": [{"share": position, "label": label}]},
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
