"""Colours and type of the charts: one light palette; every colour is a CSS variable of the page."""

from collections.abc import Mapping, Sequence
from typing import Any

HEAT = ("#F0496E", "#EBB839", "#0CD79F")
SHADES = ("#dfe4fb", "#8e9df0", "#2c3bb0")
GREY = "#b4bac2"
ON_HEAT = "#16191d"

# Each value occurs once, so that the page can replace it by its own variable.
PALETTE = {
    "ink": "#1c2127",
    "muted": "#59636f",
    "line": "#d9dde2",
    "paper": "#fffffe",
    "needle": "#3f51c9",
    "skill": "#b3541e",
    "donor": "#0b7a5c",
    "theta": "#6f6a10",
    "alone": "#a3324f",
    "aim": "#8b95a1",
    "kind-q": "#1f3f94",
    "kind-k": "#2f73d6",
    "kind-v": "#0b7d8b",
    "kind-o": "#6a4fd0",
    "kind-gate": "#c2410d",
    "kind-up": "#8a620a",
    "kind-down": "#b02a6f",
}
OTHER_KIND = "muted"


def kind_colour(kind: str) -> str:
    """Colour of one kind of module; kinds without one of their own are muted."""
    return PALETTE.get(f"kind-{kind}", PALETTE[OTHER_KIND])


def heat(share: float) -> str:
    """Colour of a share on the conventional scale from 0 to 1, as #rrggbb."""
    return _between(HEAT, share)


def shade(share: float) -> str:
    """Colour of a share of energy, darker for more: it is not a score, so not on the scale of scores."""
    return _between(SHADES, share)


def _between(colours: Sequence[str], share: float) -> str:
    position = min(max(share, 0.0), 1.0) * (len(colours) - 1)
    left = min(int(position), len(colours) - 2)
    pairs = zip(_channels(colours[left]), _channels(colours[left + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (position - left)):02x}" for a, b in pairs)


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))


def square_text(field: str, *, size: float, weight: int, **offset: float) -> dict[str, Any]:
    """A layer with the text of a field, dark on a square of the heat map; `offset` is dx and dy in pixels."""
    return {
        "mark": {
            "type": "text",
            **offset,
            "fontSize": size,
            "fontWeight": weight,
            "color": ON_HEAT,
            "aria": False,
        },
        "encoding": {"text": {"field": field, "type": "nominal"}},
    }


def themed(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A specification with the type and colours of all charts."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "background": None,
        "padding": {"left": 6, "top": 6, "right": 14, "bottom": 6},
        "config": {
            "font": "sans-serif",
            "view": {"stroke": None},
            "axis": {
                "labelColor": PALETTE["muted"],
                "titleColor": PALETTE["muted"],
                "labelFontSize": 12,
                "titleFontSize": 12,
                "titleFontWeight": "normal",
                "titlePadding": 9,
                "gridColor": PALETTE["line"],
                "domainColor": PALETTE["line"],
                "tickColor": PALETTE["line"],
            },
            "title": {
                "color": PALETTE["ink"],
                "fontSize": 15,
                "anchor": "start",
                "offset": 10,
                "fontWeight": 600,
            },
            "text": {"fontSize": 12, "color": PALETTE["ink"]},
            "concat": {"spacing": 36},
        },
        **spec,
    }
