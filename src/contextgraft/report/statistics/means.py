"""Perplexity, divergence and suites without a section of their own: means with their intervals: pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import exp
from typing import Any

from contextgraft.report.statistics.cells import ModelKey, model_key, proportion
from contextgraft.report.statistics.grouping import group_by
from contextgraft.report.statistics.paired import LengthPairs
from contextgraft.report.statistics.proportion import NOT_EVALUATED, Proportion
from contextgraft.stats import t_interval

PERPLEXITY = "perplexity"
DIVERGENCE = "divergence"
MOST = 700.0  # nats whose exponential a float can hold


@dataclass(frozen=True)
class Mean:
    """Mean of `n` documents, prompts or samples, and the standard deviation among them."""

    n: int
    mean: float
    deviation: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % t-interval of the mean; None with fewer than two values."""
        return t_interval(self.mean, self.deviation, self.n)


@dataclass(frozen=True)
class PerplexityRange:
    """Perplexity over the tokens of one range of positions; `position` is its end, None the whole window."""

    model: ModelKey
    task: str
    length: int
    position: int | None
    nats: Mean
    tokens: int

    @property
    def perplexity(self) -> float:
        """The exponential of the mean nats per token."""
        return exp(self.nats.mean)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the nats, as perplexities."""
        pair = self.nats.interval
        return (exp(pair[0]), exp(min(pair[1], MOST))) if pair else None


@dataclass(frozen=True)
class MeanDivergence:
    """How far a model's predictions are from the original fine-tune's, over `tokens` positions.

    `lengths` are those of the shortest and the longest prompt.
    """

    model: ModelKey
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
class Unscored:
    """Samples of perplexity or divergence without a score, and why."""

    model: ModelKey
    suite: str
    task: str
    length: int | None
    text: str


@dataclass(frozen=True)
class SuiteScore:
    """Mean score of one task, metric and length in a suite without a section of its own.

    `is_share`: all scores of the suite are from 0 to 1, so that the mean is a share.
    """

    model: ModelKey
    suite: str
    task: str
    scoring: str
    length: int | None
    is_share: bool
    counts: Proportion
    deviation: float

    @property
    def mean(self) -> Mean | None:
        """The mean of the scores; None if nothing was scored."""
        score = self.counts.score
        return None if score is None else Mean(self.counts.n, score, self.deviation)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval: Wilson's of a share, else Student's t (None with fewer than two values)."""
        if self.is_share:
            return self.counts.interval
        return self.mean.interval if self.mean else None


def perplexity_range(row: Mapping[str, Any]) -> PerplexityRange:
    """One row of sql/perplexity.sql."""
    nats = Mean(row["n"], row["mean"], row["deviation"])
    return PerplexityRange(model_key(row), row["task"], row["length"], row["position"], nats, row["tokens"])


def mean_divergence(row: Mapping[str, Any]) -> MeanDivergence:
    """One row of sql/divergence.sql."""
    return MeanDivergence(
        model_key(row),
        row["task"],
        (row["shortest"] or 0, row["longest"] or 0),
        Mean(row["n"], row["mean"], row["deviation"]),
        Mean(row["n"], row["agreement"], row["agreement_deviation"]),
        row["tokens"],
    )


def unscored(row: Mapping[str, Any]) -> Unscored:
    """One row of sql/unmeasured.sql."""
    reason = f": {row['reason']}" if row["reason"] else ""
    text = f"{row['samples']} {row['status']}{reason}"
    return Unscored(model_key(row), row["suite"], row["task"], row["length"], text)


def suite_score(row: Mapping[str, Any]) -> SuiteScore:
    """One row of sql/other_suites.sql."""
    return SuiteScore(
        model_key(row),
        row["suite"],
        row["task"] or "",
        row["scoring"],
        row["length"],
        row["share"],
        proportion(row),
        row["deviation"],
    )


@dataclass(frozen=True)
class Measurements:
    """Everything a study measured besides needles, RULER and skills, and what could not be measured."""

    perplexities: tuple[PerplexityRange, ...] = ()
    divergences: tuple[MeanDivergence, ...] = ()
    unscored: tuple[Unscored, ...] = ()
    other_suites: tuple[SuiteScore, ...] = ()
    long_skills: tuple[LengthPairs, ...] = ()
    repetitions: tuple[LengthPairs, ...] = ()

    @cached_property
    def _windows(self) -> dict[tuple[ModelKey, str, int], list[PerplexityRange]]:
        return group_by(self.perplexities, lambda item: (item.model, item.task, item.length))

    @cached_property
    def divergences_by_model(self) -> dict[ModelKey, list[MeanDivergence]]:
        """The divergences of each model that has some."""
        return group_by(self.divergences, lambda item: item.model)

    @cached_property
    def unscored_by_model(self) -> dict[ModelKey, list[Unscored]]:
        """What each model could not be measured in."""
        return group_by(self.unscored, lambda item: item.model)

    @cached_property
    def other_suites_by_model(self) -> dict[ModelKey, list[SuiteScore]]:
        """The scores of each model in suites without a section of their own."""
        return group_by(self.other_suites, lambda item: item.model)

    @cached_property
    def long_skills_by_model(self) -> dict[ModelKey, list[LengthPairs]]:
        """The long prompts of each model that are paired with short ones."""
        return group_by(self.long_skills, lambda item: item.model)

    @cached_property
    def repetitions_by_model(self) -> dict[ModelKey, list[LengthPairs]]:
        """The long answers of each model that are paired with those of its fine-tune."""
        return group_by(self.repetitions, lambda item: item.model)

    @cached_property
    def _unscored(self) -> dict[tuple[ModelKey, str, str], list[Unscored]]:
        return group_by(self.unscored, lambda item: (item.model, item.suite, item.task))

    @cached_property
    def _measured(self) -> dict[ModelKey, set[tuple[str, int]]]:
        """Texts and window lengths of the perplexity suite by model, scored or not."""
        windows: dict[ModelKey, set[tuple[str, int]]] = {}
        for mean in self.perplexities:
            windows.setdefault(mean.model, set()).add((mean.task, mean.length))
        for item in self.unscored:
            if item.suite == PERPLEXITY:
                windows.setdefault(item.model, set()).add((item.task, item.length or 0))
        return windows

    def curve(self, model: ModelKey, task: str, length: int) -> list[PerplexityRange]:
        """Perplexity by position of one model in one text's windows."""
        means = self._windows.get((model, task, length), ())
        return [mean for mean in means if mean.position is not None]

    def whole(self, model: ModelKey, task: str, length: int) -> PerplexityRange | None:
        """Perplexity of one model over whole windows."""
        means = self._windows.get((model, task, length), ())
        return next((mean for mean in means if mean.position is None), None)

    def windows(self, models: Iterable[ModelKey]) -> list[tuple[str, int]]:
        """Texts and window lengths of the perplexity suite for any of the models, scored or not."""
        return sorted({window for model in models for window in self._measured.get(model, ())})

    def missing_reason(self, model: ModelKey, suite: str, task: str, length: int | None = None) -> str:
        """Why a model has no score: the samples' own reason, or that there are no samples."""
        missing = self._unscored.get((model, suite, task), ())
        texts = [item.text for item in missing if length in (None, item.length)]
        return "; ".join(texts) or NOT_EVALUATED
