"""Single samples for the page: a compact table in JSON, whose texts stand once: pure."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextgraft.report.data.names import short
from contextgraft.report.statistics.cells import Who, who

MOST = 20_000  # samples a page holds; a browser on a phone still filters them at once
LONGEST_TEXT = 240


@dataclass(frozen=True)
class Drill:
    """The samples a page holds: `each` of every cell, or all of them where that is None."""

    rows: tuple[Mapping[str, Any], ...]
    total: int
    each: int | None


def choose(rows: Sequence[Mapping[str, Any]], most: int = MOST) -> Drill:
    """All rows of sql/drill.sql, or as many of every cell as the page holds."""
    if len(rows) <= most:
        return Drill(tuple(rows), len(rows), None)
    places = sorted(row["place"] for row in rows)
    each = max(places[most] - 1, 1)
    return Drill(tuple(row for row in rows if row["place"] <= each), len(rows), each)


def table(drill: Drill, groups: Mapping[Who, tuple[str, str]]) -> dict[str, Any]:
    """Columns of numbers, and (those that `words` names) of places in one list of texts.

    `groups` has each row's group and label.
    """
    columns: dict[str, list[Any]] = {
        name: [read(row, groups) for row in drill.rows] for name, read in COLUMNS.items()
    }
    words = [name for name, values in columns.items() if any(isinstance(value, str) for value in values)]
    texts = {text: place for place, text in enumerate(_distinct(columns[name] for name in words))}
    packed = {
        name: [texts.get(v) for v in columns[name]] if name in words else columns[name] for name in columns
    }
    return {
        "columns": packed,
        "words": words,
        "texts": list(texts),
        "total": drill.total,
        "each": drill.each,
    }


def as_json(value: object) -> str:
    """JSON that may stand in a script element: no `<` opens or closes anything."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def result(row: Mapping[str, Any]) -> str:
    """`right`, `wrong` or `in part`; the status of what has no score; `measured` where nothing is right."""
    if row["status"] != "ok":
        return str(row["status"])
    if row["suite"] not in {"needle", "ruler", "skill"}:
        return "measured"
    return {0.0: "wrong", 1.0: "right"}.get(row["score"], "in part")


def clipped(text: str | None) -> str | None:
    """A text of bounded length; an ellipsis says that it goes on."""
    return text if text is None or len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"


def _distinct(columns: Iterable[Iterable[Any]]) -> list[str]:
    return list(dict.fromkeys(value for values in columns for value in values if value is not None))


def _rounded(value: float | None) -> float | int | None:
    if value is None:
        return None
    return int(value) if value == int(value) else round(value, 4)


def _plain(name: str) -> Callable[[Mapping[str, Any], Mapping[Who, tuple[str, str]]], object]:
    return lambda row, groups: row[name]  # noqa: ARG005 - one signature for all columns


COLUMNS: dict[str, Callable[[Mapping[str, Any], Mapping[Who, tuple[str, str]]], object]] = {
    "tune": lambda row, groups: groups[who(row)][0],
    "row": lambda row, groups: groups[who(row)][1],
    **{name: _plain(name) for name in ("suite", "task", "kind", "haystack", "length")},
    "depth": lambda row, _: _rounded(row["depth"]),
    **{name: _plain(name) for name in ("distractors", "position", "seed", "index")},
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
