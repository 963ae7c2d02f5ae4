"""Single samples for the page: a compact table in JSON, and addresses of samples: pure."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from contextgraft.report.data.labels import short
from contextgraft.report.statistics.cells import NEEDLE, RULER, SKILL, ModelKey, model_key

MOST = 20_000  # samples in a page: a browser on a phone still filters them without delay
LONGEST_TEXT = 240
SECTION = "#samples"
Labels = Mapping[ModelKey, tuple[str, str]]


def link(**filters: object) -> str:
    """The address of the samples that match: `#samples?tune=style&row=graft+r8`; None matches all.

    Whole numbers are written without a decimal point, as the page's script writes them.
    """
    texts = {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in filters.items()
        if value is not None
    }
    return f"{SECTION}?{urlencode(texts)}"


@dataclass(frozen=True)
class BrowserSamples:
    """The samples in the page: the first `per_cell` of every cell, or all of them if that is None."""

    rows: tuple[Mapping[str, Any], ...]
    total: int
    per_cell: int | None


def select_samples(rows: Sequence[Mapping[str, Any]], most: int = MOST) -> BrowserSamples:
    """All rows of sql/sample_browser.sql, or as many of every cell as the page can have."""
    if len(rows) <= most:
        return BrowserSamples(tuple(rows), len(rows), None)
    ranks = sorted(row["rank_in_cell"] for row in rows)
    per_cell = max(ranks[most] - 1, 1)
    return BrowserSamples(tuple(row for row in rows if row["rank_in_cell"] <= per_cell), len(rows), per_cell)


def sample_table(samples: BrowserSamples, labels: Labels) -> dict[str, Any]:
    """Columns of numbers, and (those that `words` names) of indices into one list of texts.

    `labels` has each model's family and label.
    """
    columns: dict[str, list[Any]] = {
        name: [column(row, labels) for row in samples.rows] for name, column in COLUMNS.items()
    }
    words = [name for name, values in columns.items() if any(isinstance(value, str) for value in values)]
    texts = {text: index for index, text in enumerate(_distinct(columns[name] for name in words))}
    packed = {
        name: [texts.get(v) for v in columns[name]] if name in words else columns[name] for name in columns
    }
    return {
        "columns": packed,
        "words": words,
        "texts": list(texts),
        "total": samples.total,
        "each": samples.per_cell,
    }


def script_json(value: object) -> str:
    """JSON for a script element: without `<`, so that no text in it opens or closes an element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def result(row: Mapping[str, Any]) -> str:
    """`right`, `wrong` or `in part`; the status of an unscored sample; `measured` if it is neither."""
    if row["status"] != "ok":
        return str(row["status"])
    if row["suite"] not in {NEEDLE, RULER, SKILL}:
        return "measured"
    return {0.0: "wrong", 1.0: "right"}.get(row["score"], "in part")


def clipped(text: str | None) -> str | None:
    """A text of limited length; an ellipsis marks that it was longer."""
    return text if text is None or len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"


def _distinct(columns: Iterable[Iterable[Any]]) -> list[str]:
    return list(dict.fromkeys(value for values in columns for value in values if value is not None))


def _rounded(value: float | None) -> float | int | None:
    if value is None:
        return None
    return int(value) if value == int(value) else round(value, 4)


def _plain(name: str) -> Callable[[Mapping[str, Any], Labels], object]:
    return lambda row, _: row[name]


COLUMNS: dict[str, Callable[[Mapping[str, Any], Labels], object]] = {
    "tune": lambda row, labels: labels[model_key(row)][0],
    "row": lambda row, labels: labels[model_key(row)][1],
    **{name: _plain(name) for name in ("suite", "task", "kind", "haystack", "length")},
    "depth": lambda row, _: _rounded(row["depth"]),
    **{name: _plain(name) for name in ("distractors", "chat", "position", "seed", "index")},
    "result": lambda row, _: result(row),
    "score": lambda row, _: _rounded(row["score"]),
    "agreement": lambda row, _: _rounded(row["agreement"]),
    "expected": lambda row, _: clipped(row["answer"]),
    "output": lambda row, _: clipped(row["output"]),
    "reason": _plain("reason"),
    "scoring": _plain("scoring"),
    "donor": _plain("donor"),
    "digest": lambda row, _: short(row["digest"]),
    "recipe": _plain("recipe"),
}
