"""Building blocks of the charts with ranks on their horizontal axis."""

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 190
PERCENT_LABEL = "round(100 * datum.value) + ' %'"
SIGNED_LABEL = "(datum.value == 0 ? '' : datum.value < 0 ? '−' : '+') + abs(datum.value)"


def panel(
    levels: Sequence[dict[str, Any]],
    points: Sequence[dict[str, Any]],
    ranks: Sequence[int],
    height: int,
    title: str | None,
) -> dict[str, Any]:
    """A panel: horizontal lines behind, marks at ranks in front; without `title` the axis has no labels."""
    shown = title is not None
    x = {
        "field": "rank",
        "type": "ordinal",
        "scale": {"domain": list(ranks), "type": "point", "padding": 0.5},
        "axis": {"labelAngle": 0, "title": title, "labels": shown, "ticks": shown, "grid": False},
    }
    at_ranks = [layer | {"encoding": {"x": x, **layer["encoding"]}} for layer in points]
    return {"width": WIDTH, "height": height, "layer": [*levels, *at_ranks]}


def series(points: Sequence[Mapping[str, Any]], colour: str, y: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Line, interval bars and points of one measure."""
    bars = marks(
        points, {"type": "rule", "color": colour, "strokeWidth": 5, "opacity": 0.28, "strokeCap": "round"}, y
    )
    bars["encoding"]["y"] = {**y, "field": "low"}
    bars["encoding"]["y2"] = {"field": "high"}
    return [
        bars,
        marks(points, {"type": "line", "color": colour, "strokeWidth": 2}, y),
        marks(points, {"type": "circle", "color": colour, "size": 62, "opacity": 1}, y),
    ]


def marks(
    points: Sequence[Mapping[str, Any]], mark: Mapping[str, Any], y: Mapping[str, Any]
) -> dict[str, Any]:
    """One layer of marks, each described by its `text`."""
    return {
        "data": {"values": list(points)},
        "mark": {"clip": False, **mark},
        "encoding": {"y": y, "description": {"field": "text", "type": "nominal"}},
    }


def quantity(field: str, domain: Sequence[float], axis: Mapping[str, Any]) -> dict[str, Any]:
    """The vertical encoding of a measure with a fixed range."""
    return {
        "field": field,
        "type": "quantitative",
        "scale": {"domain": list(domain), "nice": False},
        "axis": dict(axis),
    }


def level(value: float, colour: str, dash: Sequence[int], text: str) -> dict[str, Any]:
    """A horizontal line across the panel, described by `text`."""
    return {
        "data": {"values": [{"share": value, "text": text}]},
        "mark": {"type": "rule", "color": colour, "strokeDash": list(dash), "strokeWidth": 1.25},
        "encoding": {
            "y": {"field": "share", "type": "quantitative"},
            "description": {"field": "text", "type": "nominal"},
        },
    }
