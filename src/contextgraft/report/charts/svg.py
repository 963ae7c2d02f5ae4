"""Specifications to SVG: as files, and as parts of the page that follow its colours."""

import re
from collections.abc import Mapping
from html import escape
from typing import Any

import vl_convert

from contextgraft.report.charts.theme import PALETTE, themed

VEGA_LITE = "5.20"
VEGA_PLACE = (
    "https://vega.github.io/vega-datasets/"  # what Vega puts before an address that is a part of the page
)
SHARPNESS = 2  # pixels of a picture for each of a chart


def render(spec: Mapping[str, Any], label: str) -> str:
    """One chart as SVG with `label` as its accessible name."""
    drawn = vl_convert.vegalite_to_svg(themed(spec), vl_version=VEGA_LITE)
    assert isinstance(drawn, str), "vl_convert returns text"
    drawn = drawn.replace(f'xlink:href="{VEGA_PLACE}#', 'xlink:href="#')
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def as_picture(svg: str) -> bytes:
    """A chart as PNG, on white, for places that show no SVG."""
    drawn = vl_convert.svg_to_png(as_file(svg), scale=SHARPNESS)
    assert isinstance(drawn, bytes), "vl_convert returns bytes"
    return drawn


def as_file(svg: str) -> str:
    """A chart to be looked at alone: on white, without links to the page's samples."""
    svg = re.sub(r"</?a\b[^>]*>", "", svg)
    return (
        re.sub(r"(<svg [^>]*>)", r'\1<rect width="100%" height="100%" fill="#ffffff"/>', svg, count=1) + "\n"
    )


def inline(svg: str, widest: float) -> str:
    """A chart as part of the page: it fills its place, and its colours are the page's variables.

    One with links is a group of them, not one picture, to those who cannot see it.

    `widest` is the width of the widest chart beside it, in pixels: all are drawn to one scale.
    """
    for name, colour in PALETTE.items():
        svg = svg.replace(f'"{colour}"', f'"var(--{name})"')
    if "<a " in svg:
        svg = svg.replace('role="img"', 'role="group"', 1).replace("xlink:href=", "href=")
    size = SIZE.search(svg)
    assert size is not None, "Vega writes the size of every chart"
    box = f' style="max-width:{widest:g}px" viewBox="0 0 {widest:g} {size["height"]}"'
    return re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", SIZE.sub(box, svg, count=1), count=3)


SIZE = re.compile(r' width="(?P<width>[\d.]+)" height="(?P<height>[\d.]+)" viewBox="[^"]*"')


def width(svg: str) -> float:
    """Width of a chart in pixels."""
    size = SIZE.search(svg)
    assert size is not None, "Vega writes the size of every chart"
    return float(size["width"])
