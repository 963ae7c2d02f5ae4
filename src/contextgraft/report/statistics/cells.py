"""The smallest groups of scored samples of a study, and how they are selected and pooled: pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from contextgraft.report.statistics.proportion import Proportion, pool

NEEDLE = "needle"
RULER = "ruler"
SKILL = "skill"
LONG_SKILL = "long_skill"
REPETITION = "repetition"
REPEATED = "rep-4"  # its metric that is a share of each answer; the other is right or wrong
SINGLE = "single"
CONTROL_ROLE = "control "  # begins the role of a control other than theta only

COUNTS = ("n", "hits", "truncated", "skipped", "failed", "reason", "shortest", "longest")


@dataclass(frozen=True, order=True)
class ModelKey:
    """Identifies a row of the table: a model, or the grafts of several donors pooled.

    `role` is base, donor, alone (the original fine-tune), theta (theta only), graft, other, or
    `control NAME`; `name` is the digest.
    """

    role: str
    name: str = ""
    rank: int = 0
    scale: float = 1.0

    @property
    def control(self) -> str:
        """The name of a control other than theta only; empty for other models."""
        return self.role.removeprefix(CONTROL_ROLE) if self.role.startswith(CONTROL_ROLE) else ""


@dataclass(frozen=True)
class ScoreGroup:
    """Samples of one model, donor, task, length, depth and split."""

    model: ModelKey
    donor: str | None
    suite: str
    task: str
    distractors: int | None
    length: int | None
    depth: float | None
    proportion: Proportion
    kind: str = SINGLE
    haystack: str = ""
    scoring: str = ""
    split: str = ""
    chat: bool = False


@dataclass(frozen=True, order=True)
class NeedleCondition:
    """What a needle prompt consists of: needle format and kind, haystack, distractors, chat template."""

    task: str
    distractors: int
    kind: str = SINGLE
    haystack: str = ""
    chat: bool = False


@dataclass(frozen=True)
class Cell:
    """Samples pooled over donors, and the same by donor."""

    proportion: Proportion
    by_donor: tuple[tuple[str, Proportion], ...] = ()

    @property
    def spread(self) -> tuple[float, float] | None:
        """Lowest and highest share among the donors; None if fewer than two were scored."""
        scores = [share.score for _, share in self.by_donor if share.score is not None]
        return (min(scores), max(scores)) if len(scores) > 1 else None


def proportion(row: Mapping[str, Any]) -> Proportion:
    """The counts in one row of sql/score_groups.sql or sql/other_suites.sql."""
    return Proportion(**{name: row[name] for name in COUNTS})


def score_group(row: Mapping[str, Any]) -> ScoreGroup:
    """One row of sql/score_groups.sql."""
    return ScoreGroup(
        model=model_key(row),
        donor=row["donor"],
        suite=row["suite"],
        task=row["task"],
        distractors=row["distractors"],
        length=row["length"],
        depth=row["depth"],
        proportion=proportion(row),
        kind=row["kind"],
        haystack=row["haystack"],
        scoring=row["scoring"],
        split=row["split"],
        chat=row["chat"],
    )


def model_key(row: Mapping[str, Any]) -> ModelKey:
    """The row of the table that a row of a query belongs to; models are named by their digests."""
    name = row["target"] or row.get("base") or ""
    return ModelKey(row["role"], name, row["rank"] or 0, 1.0 if row["scale"] is None else row["scale"])


def belongs_to_fine_tune(role: str) -> bool:
    """Whether a model of this role is a fine-tune, a graft of one, or one of its controls."""
    return role not in {"base", "donor", "other"}


def cell(groups: Iterable[ScoreGroup]) -> Cell:
    """One cell of a table: the given groups pooled, and pooled by donor."""
    given = list(groups)
    by_donor: dict[str, list[Proportion]] = {}
    for group in given:
        if group.donor is not None:
            by_donor.setdefault(group.donor, []).append(group.proportion)
    donors = tuple((donor, pool(by_donor[donor])) for donor in sorted(by_donor))
    scored = sum(share.n > 0 for _, share in donors)
    pooled = pool(group.proportion for group in given)
    return Cell(replace(pooled, repeats=max(1, scored)), donors)


def by_model(groups: Iterable[ScoreGroup]) -> dict[ModelKey, list[ScoreGroup]]:
    """The groups of each model, in their order: to search all groups for every model takes too long."""
    own: dict[ModelKey, list[ScoreGroup]] = {}
    for group in groups:
        own.setdefault(group.model, []).append(group)
    return own


def needle_condition(group: ScoreGroup) -> NeedleCondition:
    """The conditions under which a group's needles are comparable."""
    return NeedleCondition(group.task, group.distractors or 0, group.kind, group.haystack, group.chat)


def needles(
    groups: Iterable[ScoreGroup], model: ModelKey, condition: NeedleCondition, length: int | None = None
) -> list[ScoreGroup]:
    """The needle groups of one model under one condition, at one length or at all."""
    return [
        group
        for group in groups
        if group.suite == NEEDLE
        and group.model == model
        and needle_condition(group) == condition
        and length in (None, group.length)
    ]


def skills(groups: Iterable[ScoreGroup], model: ModelKey) -> list[ScoreGroup]:
    """The skill groups of one model; of a task with several metrics only those of the first metric."""
    own = [group for group in groups if group.suite == SKILL and group.model == model]
    metrics = first_metrics((group.task, group.scoring) for group in own)
    return [group for group in own if metrics[group.task] == group.scoring]


def first_metrics(scored: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The metric that counts, by task: where there are several, the first by name. No prompt counts twice."""
    metrics: dict[str, str] = {}
    for task, scoring in scored:
        metrics[task] = min(metrics.get(task, scoring), scoring)
    return metrics


def singles(groups: Iterable[ScoreGroup]) -> list[ScoreGroup]:
    """The groups of single needles, or of all needles if there are no single ones."""
    own = [group for group in groups if group.suite == NEEDLE]
    return [group for group in own if group.kind == SINGLE] or own


def conditions(groups: Iterable[ScoreGroup], models: Iterable[ModelKey]) -> tuple[NeedleCondition, ...]:
    """The needle conditions that models are judged by, sorted.

    Of single needles the condition with the most samples at the longest length; all of them if several have
    equally many. The others are in a table of their own.
    """
    wanted = set(models)
    own = singles(group for group in groups if group.model in wanted)
    longest = max((group.length for group in own if group.length is not None), default=None)
    samples = Counter({needle_condition(group): 0 for group in own})
    for group in own:
        samples[needle_condition(group)] += group.proportion.total if group.length == longest else 0
    most = max(samples.values(), default=0)
    return tuple(sorted(condition for condition, count in samples.items() if count == most))
