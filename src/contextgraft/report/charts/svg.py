"""One chart: its Vega-Lite specification drawn as SVG, as a file, as a picture and as part of the page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from typing import Any

import vl_convert

from contextgraft.report.charts.theme import PALETTE, themed

VEGA_LITE = "5.20"
# Vega puts this before an address that is a fragment of the page
VEGA_PREFIX = "https://vega.github.io/vega-datasets/"
LONGEST_SLUG = 60  # characters: a file name has up to three slugs, and at most 255 bytes
UNDRAWABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")  # no XML, and vl_convert aborts
BEYOND_16_BITS = re.compile("[\U00010000-\U0010ffff]")
SCALE = 2  # pixels of a PNG for each of a chart
SIZE = re.compile(r' width="(?P<width>[\d.]+)" height="(?P<height>[\d.]+)" viewBox="[^"]*"')


@dataclass(frozen=True)
class Figure:
    """One chart of the page: the name of its files, its title, its SVG."""

    name: str
    title: str
    svg: str


def figure(name: str, title: str, spec: Mapping[str, Any], label: str) -> Figure:
    """Draw a chart; `label` describes it in words."""
    return Figure(name, title, render(spec, label))


def slug(title: str) -> str:
    """A title as file name: lower case, with `_` for all characters that are not portable.

    A long one is its beginning and a digest.
    """
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", title).strip("_.").lower() or "model"
    if len(name) <= LONGEST_SLUG:
        return name
    return f"{name[:LONGEST_SLUG]}-{sha256(title.encode()).hexdigest()[:8]}"


def render(spec: Mapping[str, Any], label: str) -> str:
    """One chart as SVG with `label` as its accessible name."""
    clean = drawable(themed(spec))
    try:
        drawn = _draw(clean)
    except ValueError:  # Vega cuts a long text between the two halves of a character such as an emoji
        drawn = _draw(drawable(clean, BEYOND_16_BITS))
    drawn = drawn.replace(f'xlink:href="{VEGA_PREFIX}#', 'xlink:href="#')
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(drawable(label))}" ', 1)


def _draw(spec: dict[str, Any]) -> str:
    drawn = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    assert isinstance(drawn, str), "vl_convert returns text"
    return drawn


def drawable(value: Any, pattern: re.Pattern[str] = UNDRAWABLE) -> Any:
    """A JSON value whose texts have no characters that a chart cannot have."""
    if isinstance(value, str):
        return pattern.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {drawable(key, pattern): drawable(item, pattern) for key, item in value.items()}
    return [drawable(item, pattern) for item in value] if isinstance(value, Sequence) else value


def as_picture(svg: str) -> bytes:
    """A chart as PNG, on white, for programs that do not show SVG."""
    drawn = vl_convert.svg_to_png(as_file(svg), scale=SCALE)
    assert isinstance(drawn, bytes), "vl_convert returns bytes"
    return drawn


def as_file(svg: str) -> str:
    """A chart as a file of its own: on white, without links to the page's samples."""
    svg = re.sub(r"</?a\b[^>]*>", "", svg)
    return (
        re.sub(r"(<svg [^>]*>)", r'\1<rect width="100%" height="100%" fill="#ffffff"/>', svg, count=1) + "\n"
    )


def inline_all(figures: Sequence[Figure]) -> list[tuple[str, str]]:
    """Title and SVG of figures that are next to each other on the page, all drawn to one scale."""
    widest = max((width(figure.svg) for figure in figures), default=0)
    return [(figure.title, inline(figure.svg, widest)) for figure in figures]


def inline(svg: str, widest: float) -> str:
    """A chart as part of the page: it fills its container, and its colours are the page's variables.

    A chart with links is announced to screen readers as a group of them, not as one image.

    `widest` is the width of the widest chart in the same container, in pixels: all are drawn to one scale.
    """
    for name, colour in PALETTE.items():
        svg = svg.replace(f'"{colour}"', f'"var(--{name})"')
    if "<a " in svg:
        svg = svg.replace('role="img"', 'role="group"', 1).replace("xlink:href=", "href=")
    size = SIZE.search(svg)
    assert size is not None, "Vega writes the size of every chart"
    box = f' style="max-width:{widest:g}px" viewBox="0 0 {widest:g} {size["height"]}"'
    return re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", SIZE.sub(box, svg, count=1), count=3)


def width(svg: str) -> float:
    """Width of a chart in pixels."""
    size = SIZE.search(svg)
    assert size is not None, "Vega writes the size of every chart"
    return float(size["width"])
