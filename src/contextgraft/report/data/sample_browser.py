"""Single samples for the page: which of them it holds, a compact table in JSON, and addresses."""

import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any
from urllib.parse import urlencode

from contextgraft.report.data.labels import short
from contextgraft.report.data.samples import SampleDatabase
from contextgraft.report.statistics.cells import LONG_SKILL, NEEDLE, RULER, SKILL, ModelKey, model_key

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


def select_samples(database: SampleDatabase, most: int = MOST) -> BrowserSamples:
    """All samples of the study, or as many of every cell as the page can have; only these are read."""
    counts = {row["rank_in_cell"]: row["samples"] for row in database.rows("rank_counts")}
    total = sum(counts.values())
    per_cell = None if total <= most else largest_rank(counts, most)
    return BrowserSamples(tuple(database.rows("sample_browser", per_cell=per_cell)), total, per_cell)


def largest_rank(counts: Mapping[int, int], most: int) -> int:
    """The last rank up to which there are no more than `most` samples, but at least 1.

    `counts` has the number of samples of each rank in a cell, by rank from 1.
    """
    running = accumulate(counts.values())
    return max(sum(count <= most for count in running), 1)


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
    if row["suite"] not in {NEEDLE, RULER, SKILL, LONG_SKILL}:
        return "measured"
    return {0.0: "wrong", 1.0: "right"}.get(row["score"], "in part")


def clipped(text: str | None) -> str | None:
    """A text of limited length; an ellipsis marks that it was longer."""
    return text if text is None or len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"


def shell_word(path: str) -> str:
    """A relative path as one argument of a command line."""
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


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
    "file": lambda row, _: shell_word(row["file"]),
    "table_row": _plain("table_row"),
}
