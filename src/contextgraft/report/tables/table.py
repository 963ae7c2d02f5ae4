"""The one model of a table of the page: cells as texts, in rows, in sections with an optional heading."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from contextgraft.report.charts.theme import heat
from contextgraft.report.statistics.proportion import Proportion
from contextgraft.report.tables.wording import between, percent, thousands

MOST_CELLS = 50_000  # of a table; a page of more opens slowly
Column = TypeVar("Column")


@dataclass(frozen=True)
class TableCell:
    """A value with a detail in small type, or in `missing` the reason why there is no value.

    `link` is the address of the samples behind it, `fill` a background colour.
    """

    value: str = ""
    detail: str = ""
    missing: str = ""
    link: str = ""
    fill: str = ""


@dataclass(frozen=True)
class TableRow:
    """A label and a cell for each column."""

    label: str
    cells: tuple[TableCell, ...]


@dataclass(frozen=True)
class TableSection:
    """Rows under one heading, which may be empty."""

    title: str
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class ScoreTable:
    """A table with one caption; `columns` are the heads of all columns but the first."""

    title: str
    columns: tuple[str, ...]
    sections: tuple[TableSection, ...]
    note: str = ""


def shown_columns(columns: Sequence[Column], rows: int) -> tuple[Sequence[Column], str]:
    """The first columns of a table with so many rows, and a note if they are not all of them."""
    most = max(1, MOST_CELLS // max(rows, 1))
    note = f"The first {most} of {thousands(len(columns))} columns." if len(columns) > most else ""
    return columns[:most], note


def score_cell(proportion: Proportion, link: str) -> TableCell:
    """A share with its interval and n, coloured by score, or why there is none."""
    if proportion.score is None:
        return TableCell(missing=proportion.unscored_reason, link=link if proportion.total else "")
    unscored = f", not scored: {proportion.unscored_reason}" if proportion.unscored else ""
    detail = f"{between(proportion.interval)} n={thousands(proportion.n)}{unscored}"
    return TableCell(percent(proportion.score), detail, link=link, fill=heat(proportion.score))
