"""Samples summed up for the terminal: score, n and interval for each model, task and length."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from contextgraft.stats import wilson


@dataclass(frozen=True)
class Score:
    """Right answers of n asked, a 95 % Wilson interval, and how many were not asked or failed."""

    model: str
    suite: str
    task: str
    length: int | None
    right: int
    n: int
    low: float
    high: float
    missing: int

    @property
    def share(self) -> float | None:
        """Right answers as a share of those asked; None if none was."""
        return self.right / self.n if self.n else None


def summarise(table: pa.Table) -> list[Score]:
    """One score for each model, suite, task and length, in the order of the table."""
    groups: dict[tuple[str, str, str, int | None], list[float | None]] = {}
    columns = ("model", "suite", "task", "length", "score")
    for model, suite, task, length, score in zip(*(table[name].to_pylist() for name in columns), strict=True):
        groups.setdefault((model, suite, task, length), []).append(score)
    return [score_of(*key, scores) for key, scores in groups.items()]


def score_of(model: str, suite: str, task: str, length: int | None, scores: Sequence[float | None]) -> Score:
    """One group's score."""
    asked = [score for score in scores if score is not None]
    right = round(sum(asked))
    low, high = wilson(right, len(asked))
    return Score(model, suite, task, length, right, len(asked), low, high, len(scores) - len(asked))


def as_json(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Scores as JSON values."""
    return [{**asdict(score), "share": score.share} for score in scores]
