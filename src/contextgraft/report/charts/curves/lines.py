"""Building blocks of charts with one line for each model: its interval as a band, its name at the end."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from contextgraft.report.charts.label_positions import spaced

WIDTH = 210
HEIGHT = 190
GAP = 0.075  # of the height, between two names


class EndLabel(NamedTuple):
    """The name at the right end of a line: its text, its colour, the height of the end from 0 to 1."""

    text: str
    colour: str
    height: float


def banded_line(
    values: Sequence[Mapping[str, Any]],
    colour: str,
    dash: Sequence[int],
    encoding: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """A line with points; the band reaches from the field `low` to `high`."""
    band = {**encoding, "y": {**encoding["y"], "field": "low"}, "y2": {"field": "high"}}
    marks: list[tuple[dict[str, Any], Mapping[str, Any]]] = [
        ({"type": "area", "color": colour, "opacity": 0.12, "aria": False}, band),
        ({"type": "line", "color": colour, "strokeWidth": 2, "strokeDash": list(dash)}, encoding),
        ({"type": "circle", "color": colour, "size": 44, "opacity": 1}, encoding),
    ]
    data = {"values": list(values)}
    return [{"data": data, "mark": mark, "encoding": axes} for mark, axes in marks]


def end_labels(labels: Sequence[EndLabel]) -> list[dict[str, Any]]:
    """Names at the right end of the lines, without overlap."""
    ordered = sorted(labels, key=lambda label: label.height)
    positions = spaced([label.height for label in ordered], GAP)
    return [
        {
            "data": {"values": [{"label": label.text}]},
            "mark": {"type": "text", "align": "left", "dx": 7, "color": label.colour, "aria": False},
            "encoding": {
                "x": {"value": WIDTH},
                "y": {"value": HEIGHT * (1 - position)},
                "text": {"field": "label", "type": "nominal"},
            },
        }
        for label, position in zip(ordered, positions, strict=True)
    ]
