"""The numbers of the charts for `dvc plots`: CSV tables, and the templates that draw them."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from contextgraft.errors import printable
from contextgraft.report.charts.theme import HEAT
from contextgraft.report.data.labels import (
    OTHERS,
    REFERENCES,
    family_labels,
    reference_titles,
    target_titles,
)
from contextgraft.report.statistics.cells import Cell
from contextgraft.report.statistics.means import Measurements
from contextgraft.report.statistics.proportion import Difference
from contextgraft.report.statistics.study_table import StudyTable

FOLDER = "plots"
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # first characters of a formula
INTERVAL = ("low", "high", "n")
SKILL = ("skill", "skill_low", "skill_high", "skill_n")
STEP = tuple(f"skill_difference{name}" for name in ("", "_low", "_high", "_interval"))  # in points


def files(study: StudyTable, measurements: Measurements) -> dict[str, str]:
    """File name and text of every table and of its template; tables without rows are left out."""
    tables = {
        "rank": (("fine_tune", "rank", "needles", *INTERVAL, *SKILL, *STEP), ranks(study)),
        "heatmap": (("fine_tune", "model", "length", "depth", "needles", *INTERVAL), heatmap(study)),
        "perplexity": (
            ("fine_tune", "model", "text", "length", "position", "perplexity", *INTERVAL),
            perplexity(study, measurements),
        ),
    }
    texts = {}
    for name, (columns, rows) in tables.items():
        if rows:
            texts[f"{FOLDER}/{name}.csv"] = as_csv(columns, rows)
            texts[f"{FOLDER}/{name}.json"] = json.dumps(TEMPLATES[name], indent=2, sort_keys=True) + "\n"
    return texts


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table as CSV; missing values are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: cell_text(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def cell_text(value: Any) -> Any:
    """A cell in one line that no spreadsheet takes for a formula: an apostrophe marks such text."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if value.lstrip().startswith(FORMULA) else text


def ranks(study: StudyTable) -> list[dict[str, Any]]:
    """Needles found at the longest length and skill kept, by fine-tune and rank; rank 0 is theta only."""
    return [
        {
            "fine_tune": title,
            "rank": row.model.rank,
            **_share(row.long),
            **dict(zip(SKILL, _share(row.skill).values(), strict=True)),
            **_difference(row.skill_difference),
        }
        for title, target in target_titles(study)
        for row in (target.theta, *target.grafts)
    ]


def heatmap(study: StudyTable) -> list[dict[str, Any]]:
    """Needles found by model, length and depth, under the conditions of the verdicts."""
    rows = [(REFERENCES, title, row) for title, row in reference_titles(study.references)]
    rows += [(title, row.label, row) for title, target in target_titles(study) for row in target.rows]
    rows += [(OTHERS, title, row) for title, row in reference_titles(study.others)]
    return [
        {"fine_tune": family, "model": label, "length": length, "depth": depth, **_share(cell)}
        for family, label, row in rows
        for (length, depth), cell in study.by_length_and_depth(row).items()
    ]


def perplexity(study: StudyTable, measurements: Measurements) -> list[dict[str, Any]]:
    """Perplexity by model, text, length of the window and position in it."""
    labels = family_labels(study)
    return [
        {
            "fine_tune": labels[item.model][0],
            "model": labels[item.model][1],
            "text": item.task,
            "length": item.length,
            "position": item.position,
            "perplexity": _rounded(item.perplexity),
            "low": _rounded(item.interval[0] if item.interval else None),
            "high": _rounded(item.interval[1] if item.interval else None),
            "n": item.nats.n,
        }
        for item in measurements.perplexities
        if item.position is not None
    ]


def _share(cell: Cell) -> dict[str, Any]:
    proportion = cell.proportion
    low, high = proportion.interval if proportion.n else (None, None)
    return {
        "needles": _rounded(proportion.score),
        "low": _rounded(low),
        "high": _rounded(high),
        "n": proportion.n,
    }


def _difference(points: Difference | None) -> dict[str, Any]:
    """The skill against the fine-tune's own, in points, and the method of its interval."""
    if points is None:
        return dict.fromkeys(STEP)
    numbers = map(_rounded, (points.points, points.low, points.high))
    return dict(zip(STEP, (*numbers, points.method), strict=True))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _template(mark: Mapping[str, Any], encoding: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A Vega-Lite chart whose rows DVC inserts, with a panel for each revision and value of `names`."""
    used = sorted({axis["field"] for axis in encoding.values()} & NUMBERS)
    title = " + ', ' + ".join(f"datum.{name}" for name in ("rev", *names))
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        # DVC reads every cell of a CSV as text
        "data": {"values": "<DVC_METRIC_DATA>", "format": {"parse": dict.fromkeys(used, "number")}},
        "title": "<DVC_METRIC_TITLE>",
        "transform": [{"calculate": title, "as": "panel"}],
        "facet": {"field": "panel", "type": "nominal", "title": None},
        "columns": 6,
        "spec": {"mark": dict(mark), "encoding": dict(encoding), "width": 180, "height": 140},
    }


NUMBERS = {"rank", "needles", "length", "depth", "position", "perplexity"}


def _axis(field: str, kind: str, title: str, **more: Any) -> dict[str, Any]:
    return {"field": field, "type": kind, "title": title, **more}


TEMPLATES: dict[str, dict[str, Any]] = {
    "rank": _template(
        {"type": "line", "point": True},
        {
            "x": _axis("rank", "ordinal", "rank, 0 is theta only"),
            "y": _axis("needles", "quantitative", "needles found", scale={"domain": [0, 1]}),
        },
        "fine_tune",
    ),
    "heatmap": _template(
        {"type": "rect"},
        {
            "x": _axis("length", "ordinal", "tokens"),
            "y": _axis("depth", "ordinal", "depth, %", sort="ascending"),
            "color": _axis(
                "needles", "quantitative", "needles found", scale={"domain": [0, 0.5, 1], "range": list(HEAT)}
            ),
        },
        "fine_tune",
        "model",
    ),
    "perplexity": _template(
        {"type": "line", "point": True},
        {
            "x": _axis("position", "quantitative", "position", scale={"type": "log", "base": 2}),
            "y": _axis("perplexity", "quantitative", "perplexity", scale={"type": "log", "nice": False}),
            "color": _axis("model", "nominal", "model"),
        },
        "fine_tune",
    ),
}
