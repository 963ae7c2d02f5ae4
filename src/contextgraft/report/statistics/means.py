"""Perplexity and divergence: means over documents or prompts, with their intervals: pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import exp
from typing import Any

from contextgraft.report.statistics.cells import Who, who
from contextgraft.stats import t_interval


@dataclass(frozen=True)
class Mean:
    """Mean of `n` documents or prompts, and the standard deviation among them."""

    n: int
    mean: float
    deviation: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % t-interval of the mean; None with fewer than two values."""
        return t_interval(self.mean, self.deviation, self.n)


@dataclass(frozen=True)
class Stretch:
    """Perplexity over the tokens up to `position`, from the stretch before it; None is the whole window."""

    who: Who
    task: str
    length: int
    position: int | None
    nats: Mean
    tokens: int

    @property
    def perplexity(self) -> float:
        """The exponential of the mean nats a token."""
        return exp(self.nats.mean)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the nats, as perplexities."""
        pair = self.nats.interval
        return (exp(pair[0]), exp(pair[1])) if pair else None


@dataclass(frozen=True)
class Divergence:
    """How far a model's predictions are from the untouched fine-tune's, over `tokens` positions.

    `lengths` are those of the shortest and the longest prompt.
    """

    who: Who
    task: str
    lengths: tuple[int, int]
    kl: Mean
    agreement: Mean
    tokens: int

    @property
    def kl_interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean KL in nats, which is never below 0."""
        pair = self.kl.interval
        return (max(pair[0], 0.0), pair[1]) if pair else None

    @property
    def agreement_interval(self) -> tuple[float, float] | None:
        """95 % interval of the share of positions with the same first token."""
        pair = self.agreement.interval
        return (max(pair[0], 0.0), min(pair[1], 1.0)) if pair else None


@dataclass(frozen=True)
class Gap:
    """Samples of perplexity or divergence without a figure, and why."""

    who: Who
    suite: str
    task: str
    length: int | None
    text: str


def stretch(row: Mapping[str, Any]) -> Stretch:
    """One row of sql/perplexity.sql."""
    nats = Mean(row["n"], row["mean"], row["deviation"])
    return Stretch(who(row), row["task"], row["length"], row["position"], nats, row["tokens"])


def divergence(row: Mapping[str, Any]) -> Divergence:
    """One row of sql/divergence.sql."""
    return Divergence(
        who(row),
        row["task"],
        (row["shortest"] or 0, row["longest"] or 0),
        Mean(row["n"], row["mean"], row["deviation"]),
        Mean(row["n"], row["agreement"], row["agreement_deviation"]),
        row["tokens"],
    )


def gap(row: Mapping[str, Any]) -> Gap:
    """One row of sql/unmeasured.sql."""
    reason = f": {row['reason']}" if row["reason"] else ""
    text = f"{row['samples']} {row['status']}{reason}"
    return Gap(who(row), row["suite"], row["task"], row["length"], text)


@dataclass(frozen=True)
class Measures:
    """All perplexities and divergences of a study, and what could not be measured."""

    stretches: tuple[Stretch, ...] = ()
    divergences: tuple[Divergence, ...] = ()
    gaps: tuple[Gap, ...] = ()

    def curve(self, row: Who, task: str, length: int) -> list[Stretch]:
        """Perplexity by position of one row in one text's windows."""
        return [
            item
            for item in self.stretches
            if (item.who, item.task, item.length) == (row, task, length) and item.position is not None
        ]

    def whole(self, row: Who, task: str, length: int) -> Stretch | None:
        """Perplexity of one row over whole windows."""
        wanted = (row, task, length, None)
        return next((s for s in self.stretches if (s.who, s.task, s.length, s.position) == wanted), None)

    def windows(self, rows: Iterable[Who]) -> list[tuple[str, int]]:
        """Texts and window lengths that any of the rows was measured on, or would have been."""
        wanted = set(rows)
        found = {(item.task, item.length) for item in self.stretches if item.who in wanted}
        missed = {
            (item.task, item.length or 0)
            for item in self.gaps
            if item.suite == "perplexity" and item.who in wanted
        }
        return sorted(found | missed)

    def why(self, row: Who, suite: str, task: str, length: int | None = None) -> str:
        """Why a row has no figure: the samples' own reason, or that it was not asked."""
        texts = [
            item.text
            for item in self.gaps
            if (item.who, item.suite, item.task) == (row, suite, task) and length in (None, item.length)
        ]
        return "; ".join(texts) or "not asked"
