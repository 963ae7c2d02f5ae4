"""Measures: what is found out about a loaded model other than by asking it questions."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from contextgraft.evaluation.backends.loading import positions
from contextgraft.evaluation.backends.tokenizer import Tokens

Row = dict[str, Any]  # a measure's own columns of the table of samples; those that are absent are null
REASON = 200  # most characters of a reason
NOT_FINITE = "the model's predictions are not finite numbers"


@dataclass(frozen=True)
class Subject:
    """A model that is loaded and about to be measured.

    `identity` is a digest of all that decides its predictions; `reference` is that of the model divergence is
    measured from, and the same for that model itself; `reference_digest` is the digest of its weights. `work`
    is where a run keeps what it needs again.
    """

    model: Any
    tokens: Tokens
    path: Path
    batch_size: int
    work: Path
    identity: str
    reference: str
    reference_digest: str


class Measure(Protocol):
    """One unit of measuring: its rows of one model come together."""

    @property
    def suite(self) -> str:
        """The rows' suite."""

    def key(self) -> dict[str, Any]:
        """JSON of all that decides what is measured."""

    def check(self, tokens: Tokens) -> None:
        """Raise InputError for whatever can be known to be wrong before a model is loaded."""

    def count(self) -> int:
        """How many windows, prompts or documents there are."""

    def longest(self, tokens: Tokens) -> int:
        """Tokens of the longest of them."""

    def again(self, row: Mapping[str, Any]) -> "Measure":
        """The measure of what a row of the table was measured on, and of nothing else.

        InputError if this measure is of another text, file or task.
        """

    def text(self, tokens: Tokens) -> str:
        """What a model is given, as text."""

    def ready(self, work: Path, reference: str) -> bool:
        """Whether what the reference model leaves behind is there; if not, it must be measured first."""

    def rows(self, subject: Subject, advance: Callable[[int], object] = int) -> list[Row]:
        """The rows of a model; `advance` hears how many more of `count` are done.

        What the model cannot do is a row with a status and a reason, not an exception.
        """

    def unmeasured(self, tokens: Tokens, status: str, reason: str) -> list[Row]:
        """The same rows without scores."""


def scored(row: Row, score: float, agreement: float | None = None) -> Row:
    """A row with its score; without one where the figure is no number."""
    if not math.isfinite(score):
        return missed(row, "failed", NOT_FINITE)
    return {**row, "score": score, "agreement": agreement, "status": "ok", "reason": None}


def missed(row: Row, status: str, reason: str) -> Row:
    """A row without a score, and why."""
    return {**row, "score": None, "status": status, "reason": " ".join(reason.split())[:REASON]}


def failure(error: BaseException) -> str:
    """An error as the reason of a row."""
    return f"{type(error).__name__}: {error}"


def too_long(model: Any, length: int) -> str | None:
    """Why a text of that many tokens is not given to a model; None where it fits."""
    room = positions(model.config)
    if room is None or length <= room:
        return None
    return f"needs {length} tokens, the model has {room} positions and no rotary ones; it was not measured"
