"""Scores of two models, or of a short and a long prompt, paired by sample: pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from contextgraft.report.statistics.cells import (
    NEEDLE,
    REPEATED,
    ModelKey,
    NeedleCondition,
    first_metrics,
    model_key,
)
from contextgraft.report.statistics.clusters import DIGITS, bootstrap_difference
from contextgraft.report.statistics.proportion import BOOTSTRAP, PAIRED, STUDENT, Difference
from contextgraft.stats import mcnemar, newcombe_paired, t_interval

ENOUGH_TEXTS = 20  # with fewer, the percentile bootstrap is too narrow
ENOUGH_DIFFERING = (
    10  # texts with another difference than most: with fewer, a rare loss may be in none of them
)


@dataclass(frozen=True)
class PairCounts:
    """`n` prompts that both sides answered, as a fourfold table.

    The sides are graft and fine-tune, or the long prompt and the short one. `gained` are the prompts that
    only the first side got right, `lost` those that only the second did. The four cells may be fractions:
    answers of several donors to one prompt are averaged, and answers may be partly
    right (`graded`). `wins`, `losses` and `ties` count every pair of every donor. `texts` has, for each text
    (of a skill: each prompt), the number of its prompts and the sum of the differences.
    """

    n: int = 0
    both: float = 0
    gained: float = 0
    lost: float = 0
    neither: float = 0
    wins: int = 0
    losses: int = 0
    ties: int = 0
    graded: bool = field(default=False, compare=False)
    texts: tuple[tuple[float, float], ...] = field(default=(), compare=False, repr=False)

    @cached_property
    def difference(self) -> Difference | None:
        """The first side's share minus the second's, in points.

        The interval is Newcombe's for pairs where answers are right or wrong. For graded scores it is the
        bootstrap over texts; with fewer than `ENOUGH_TEXTS`, or where nearly all differ by the same, it is
        Newcombe's, which is too wide for them rather than too narrow.
        """
        if not self.n:
            return None
        points = 100 * (self.gained - self.lost) / self.n
        if self.graded and self._vary and self._over_texts:
            return Difference(points, *self._over_texts, BOOTSTRAP)
        low, high = newcombe_paired(*(max(cell, 0.0) for cell in self._cells))
        return Difference(points, 100 * low, 100 * high, PAIRED)

    @property
    def by_text(self) -> Difference | None:
        """The difference with the bootstrap over texts; None where no text has several prompts."""
        if self._over_texts is None or all(n == 1 for n, _ in self.texts):
            return None
        return Difference(100 * (self.gained - self.lost) / self.n, *self._over_texts, BOOTSTRAP)

    @property
    def _vary(self) -> bool:
        """Whether there are enough texts, and enough differences among them, for the bootstrap."""
        steps = Counter(round(step / n, DIGITS) for n, step in self.texts)
        most = max(steps.values(), default=0)
        return len(self.texts) >= ENOUGH_TEXTS and len(self.texts) - most >= ENOUGH_DIFFERING

    @cached_property
    def _over_texts(self) -> tuple[float, float] | None:
        pair = bootstrap_difference(self.texts, [(n, 0.0) for n, _ in self.texts])
        return pair and (100 * pair[0], 100 * pair[1])

    @property
    def first(self) -> float:
        """The share of right answers of the first side; 0 without prompts."""
        return (self.both + self.gained) / max(self.n, 1)

    @property
    def second(self) -> float:
        """The share of right answers of the second side; 0 without prompts."""
        return (self.both + self.lost) / max(self.n, 1)

    @property
    def p_value(self) -> float | None:
        """Exact McNemar test; None if a prompt has several pairs."""
        return mcnemar(self.wins, self.losses) if self.n == self.wins + self.losses + self.ties else None

    @property
    def _cells(self) -> tuple[float, float, float, float]:
        return self.both, self.gained, self.lost, self.neither


UNPAIRED = PairCounts()


@dataclass(frozen=True)
class SkillPairs:
    """The pairs of one task and metric of one model."""

    model: ModelKey
    task: str
    scoring: str
    pairs: PairCounts
    split: str = ""


@dataclass(frozen=True)
class LengthPairs:
    """Prompts of one task, metric and length, paired for one model.

    Of skills the sides are the prompt behind a long text and the same prompt alone; of repetition they are
    the model and the fine-tune alone. `length` is None for short prompts. `deviation` is the standard
    deviation of the differences among prompts, None where an answer is right or wrong.
    """

    model: ModelKey
    task: str
    scoring: str
    length: int | None
    pairs: PairCounts
    deviation: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the difference in points: as PairCounts has it, of repetition Student's t.

        None for a mean of fewer than two differences.
        """
        points = self.pairs.difference
        if points is None or self.deviation is None:
            return None if points is None else (points.low, points.high)
        pair = t_interval(points.points, 100 * self.deviation, self.pairs.n)
        return pair and (max(pair[0], -100.0), min(pair[1], 100.0))

    @property
    def method(self) -> str:
        """The method of the interval."""
        points = self.pairs.difference
        return STUDENT if self.deviation is not None or points is None else points.method


@dataclass(frozen=True)
class ControlPairs:
    """Prompts of one suite, task and length that a graft and a control (or the graft at another scale) share.

    `condition` and `length` are those of needles; a skill has none.
    """

    graft: ModelKey
    control: ModelKey
    suite: str
    task: str
    scoring: str
    condition: NeedleCondition | None
    length: int | None
    split: str
    pairs: PairCounts


def pair_counts(row: Mapping[str, Any]) -> PairCounts:
    """The column `counts` of a row of one of the queries of pairs."""
    counts = row["counts"]
    return PairCounts(**{**counts, "texts": tuple((n, step) for n, step in counts["texts"])})


def control_pairs(row: Mapping[str, Any]) -> ControlPairs:
    """A row of sql/control_pairs.sql."""
    scale = 1.0 if row["other_scale"] is None else row["other_scale"]
    needle = row["suite"] == NEEDLE
    condition = NeedleCondition(
        row["task"], row["distractors"] or 0, row["kind"], row["haystack"], row["chat"]
    )
    return ControlPairs(
        graft=ModelKey("graft", row["target"], row["rank"] or 0),
        control=ModelKey(row["other_role"], row["target"], row["other_rank"] or 0, scale),
        suite=row["suite"],
        task=row["task"],
        scoring=row["scoring"],
        condition=condition if needle else None,
        length=row["length"] if needle else None,
        split=row["split"],
        pairs=pair_counts(row),
    )


def skill_pairs(row: Mapping[str, Any]) -> SkillPairs:
    """The pairs of one model, task and metric, from a row of sql/pairs.sql."""
    return SkillPairs(model_key(row), row["task"], row["scoring"], pair_counts(row), row["split"])


def length_pairs(row: Mapping[str, Any]) -> LengthPairs:
    """A row of sql/long_skill_pairs.sql or sql/repetition_pairs.sql."""
    deviation = row["deviation"] if row["scoring"] == REPEATED else None
    return LengthPairs(
        model_key(row), row["task"], row["scoring"], row["length"], pair_counts(row), deviation
    )


def pairs_by_model(skills: Iterable[SkillPairs], split: str | None = None) -> dict[ModelKey, PairCounts]:
    """The pairs of each model, pooled over its tasks, each task by its first metric; of one split or all."""
    by_model: dict[ModelKey, list[SkillPairs]] = {}
    for skill in skills:
        if split in (None, skill.split):
            by_model.setdefault(skill.model, []).append(skill)
    pooled: dict[ModelKey, PairCounts] = {}
    for model, own in by_model.items():
        metrics = first_metrics((skill.task, skill.scoring) for skill in own)
        pooled[model] = pool_pairs(skill.pairs for skill in own if skill.scoring == metrics[skill.task])
    return pooled


def pool_pairs(counts: Iterable[PairCounts]) -> PairCounts:
    """Counts of several tasks or splits, added; no text is in two of them."""
    given = list(counts)
    return PairCounts(
        n=sum(count.n for count in given),
        both=sum(count.both for count in given),
        gained=sum(count.gained for count in given),
        lost=sum(count.lost for count in given),
        neither=sum(count.neither for count in given),
        wins=sum(count.wins for count in given),
        losses=sum(count.losses for count in given),
        ties=sum(count.ties for count in given),
        graded=any(count.graded for count in given),
        texts=tuple(text for count in given for text in count.texts),
    )
