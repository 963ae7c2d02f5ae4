"""Scores of two models, or of a short and a long prompt, paired by sample: pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from contextgraft.report.statistics.cells import (
    NEEDLE,
    REPEATED,
    ModelKey,
    NeedleCondition,
    first_metrics,
    model_key,
)
from contextgraft.report.statistics.proportion import Difference
from contextgraft.stats import mcnemar, newcombe_paired, t_interval


@dataclass(frozen=True)
class PairCounts:
    """`n` prompts that both sides answered, as a fourfold table.

    The sides are graft and fine-tune, or the long prompt and the short one. `gained` are the prompts that
    only the first side got right, `lost` those that only the second did. The four cells may be fractions:
    answers of several donors to one prompt are averaged, and answers may be partly
    right. `wins`, `losses` and `ties` count every pair of every donor.
    """

    n: int = 0
    both: float = 0
    gained: float = 0
    lost: float = 0
    neither: float = 0
    wins: int = 0
    losses: int = 0
    ties: int = 0

    @property
    def difference(self) -> Difference | None:
        """The first side's share minus the second's, in points, with Newcombe's paired interval."""
        if not self.n:
            return None
        low, high = newcombe_paired(*(max(cell, 0.0) for cell in self._cells))
        return Difference(100 * (self.gained - self.lost) / self.n, 100 * low, 100 * high)

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
        """95 % interval of the difference in points: Newcombe's for right or wrong, else Student's t.

        None for a mean of fewer than two differences.
        """
        points = self.pairs.difference
        if points is None or self.deviation is None:
            return None if points is None else (points.low, points.high)
        pair = t_interval(points.points, 100 * self.deviation, self.pairs.n)
        return pair and (max(pair[0], -100.0), min(pair[1], 100.0))


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
        pairs=PairCounts(**row["counts"]),
    )


def skill_pairs(row: Mapping[str, Any]) -> SkillPairs:
    """The pairs of one model, task and metric, from a row of sql/pairs.sql."""
    return SkillPairs(model_key(row), row["task"], row["scoring"], PairCounts(**row["counts"]), row["split"])


def length_pairs(row: Mapping[str, Any]) -> LengthPairs:
    """A row of sql/long_skill_pairs.sql or sql/repetition_pairs.sql."""
    deviation = row["deviation"] if row["scoring"] == REPEATED else None
    return LengthPairs(
        model_key(row), row["task"], row["scoring"], row["length"], PairCounts(**row["counts"]), deviation
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
    """Counts of several tasks or donors, added."""
    given = list(counts)
    return PairCounts(
        **{field.name: sum(getattr(count, field.name) for count in given) for field in fields(PairCounts)}
    )
