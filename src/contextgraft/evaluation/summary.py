"""Samples summarised for the terminal: mean, n and interval for each model, task, kind and length."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import stdev
from typing import Any

import pyarrow as pa

from contextgraft.evaluation.suites import SUITES
from contextgraft.stats import t_interval, wilson

Interval = tuple[float, float] | None
Group = tuple[str, str, str, str | None, str | None, int | None]


@dataclass(frozen=True)
class ScoreSummary:
    """Mean of n scores with a 95 % interval, and how many samples have no score.

    `unit` is "share" (of right answers, with Wilson's interval) or "nats" (per token, with Student's interval
    over the documents, each weighted by its tokens in the mean).
    """

    model: str
    suite: str
    task: str
    kind: str | None
    haystack: str | None
    length: int | None
    unit: str
    mean: float | None
    n: int
    low: float | None
    high: float | None
    missing: int


def summarise(table: pa.Table) -> list[ScoreSummary]:
    """One score for each model, suite, task, kind, haystack and length, in the order of the table."""
    columns = ("model", "suite", "task", "kind", "haystack", "length", "score", "tokens", "document")
    groups: dict[Group, list[tuple[float | None, int, int]]] = {}
    for *group, score, tokens, document in zip(*(table[name].to_pylist() for name in columns), strict=True):
        model, suite, task, kind, haystack, length = group
        rows = groups.setdefault((model, suite, task, kind, haystack, length), [])
        rows.append((score, tokens or 1, document or 0))
    return [score_of(group, rows) for group, rows in groups.items()]


def score_of(group: Group, rows: Sequence[tuple[float | None, int, int]]) -> ScoreSummary:
    """One group's score; its rows are scores, tokens and documents."""
    model, suite, task, kind, haystack, length = group
    scored = [(score, tokens, document) for score, tokens, document in rows if score is not None]
    unit = SUITES[suite].unit if suite in SUITES else "share"  # the row of a skipped model has no suite
    mean, n, interval = SUMMARIES[unit](scored) if scored else (None, 0, None)
    low, high = interval or (None, None)
    missing = len(rows) - len(scored)
    return ScoreSummary(model, suite, task, kind, haystack, length, unit, mean, n, low, high, missing)


def share(rows: Sequence[tuple[float, int, int]]) -> tuple[float, int, Interval]:
    """Share of right answers, how many answers, and its interval."""
    right = sum(score for score, _, _ in rows)
    return right / len(rows), len(rows), wilson(right, len(rows))


def nats(rows: Sequence[tuple[float, int, int]]) -> tuple[float, int, Interval]:
    """Nats a token over all documents, how many documents, and the interval of their mean."""
    sums: dict[int, list[float]] = {}
    for score, tokens, document in rows:
        totals = sums.setdefault(document, [0.0, 0.0])
        totals[0] += score * tokens
        totals[1] += tokens
    means = [total / tokens for total, tokens in sums.values()]
    mean = sum(total for total, _ in sums.values()) / sum(tokens for _, tokens in sums.values())
    return mean, len(means), t_interval(mean, stdev(means), len(means)) if len(means) > 1 else None


SUMMARIES: dict[str, Callable[..., tuple[float, int, Interval]]] = {"share": share, "nats": nats}


def as_json(scores: Sequence[ScoreSummary]) -> list[dict[str, Any]]:
    """What `evaluate --json` prints."""
    return [asdict(score) for score in scores]
