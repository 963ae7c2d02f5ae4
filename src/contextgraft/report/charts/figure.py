"""One chart: the name of its files, its title, its drawing."""

import re
from dataclasses import dataclass

from contextgraft.report.charts.svg import render


@dataclass(frozen=True)
class Figure:
    """One chart of the page: the name of its files, what it is called, its SVG."""

    name: str
    title: str
    svg: str


def slug(title: str) -> str:
    """A file name from a title."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", title).strip("_.").lower() or "model"


def figure(name: str, title: str, spec: dict[str, object], label: str) -> Figure:
    """Draw a chart; `label` tells it in words."""
    return Figure(name, title, render(spec, label))
