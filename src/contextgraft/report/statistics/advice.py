"""Which rank to use for a fine-tune, under all of its needle conditions: pure.

The page and the recommendation for `contextgraft merge` both follow this decision: where a rank is the one to
use, every verdict of the fine-tune is about it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import groupby

from contextgraft.report.statistics.study_table import StudyTable, TargetResult
from contextgraft.report.statistics.verdict import (
    RECOMMENDED_OUTCOMES,
    VerdictOutcome,
    advised_verdict,
    outcome_of,
    ranks_with,
    smallest,
)


class Advice(Enum):
    """What a reader should do with the fine-tune."""

    USE = "use"
    NOT_NEEDED = "not needed"
    NONE = "none"


@dataclass(frozen=True)
class RankAdvice:
    """The advice for one fine-tune; `rank` is None unless the advice is USE."""

    advice: Advice
    rank: int | None = None


def advise(targets: Sequence[TargetResult]) -> RankAdvice:
    """The advice for one fine-tune from its results, one for each needle condition.

    No adapter is needed if the long context works without one under every condition. Else the smallest rank
    that brings the long context and keeps the skill under every condition is the one to use. If the verdict
    of every condition is that the skill was not measured, the long context alone decides. Where prompts are
    split, those that choose the rank must agree with those that it is judged on, and the smallest rank that
    passes there by a standard error under every condition is preferred to smaller ones.
    """
    if targets and all(target.verdict.adapter_unneeded for target in targets):
        return RankAdvice(Advice.NOT_NEEDED)
    for outcome in RECOMMENDED_OUTCOMES:
        rank = _smallest_rank(targets, outcome)
        if rank is not None:
            return RankAdvice(Advice.USE, rank)
    return RankAdvice(Advice.NONE)


def advice_by_digest(targets: Sequence[TargetResult]) -> Mapping[str, RankAdvice]:
    """The advice for each fine-tune of a study, by its digest."""

    def digest(target: TargetResult) -> str:
        return target.digest

    return {key: advise(tuple(group)) for key, group in groupby(sorted(targets, key=digest), digest)}


def with_advice(study: StudyTable) -> StudyTable:
    """The study with every verdict about the rank to use; without such a rank it stays as it is."""
    advice = advice_by_digest(study.targets)
    return replace(study, targets=tuple(_advised(target, advice[target.digest]) for target in study.targets))


def _advised(target: TargetResult, advice: RankAdvice) -> TargetResult:
    if advice.rank is None:
        return target
    comparisons = target.comparisons.get(advice.rank, ())
    verdict = advised_verdict(target.verdict, advice.rank, target.choosing, target.judged, comparisons)
    return replace(target, verdict=verdict)


def _smallest_rank(targets: Sequence[TargetResult], outcome: VerdictOutcome) -> int | None:
    if not targets or any(target.verdict.chosen is not outcome for target in targets):
        return None
    ranks = [set(ranks_with(outcome, target.choosing.alone, target.choosing.grafts)) for target in targets]
    margins = [target.choosing for target in targets if target.verdict.chosen_on is not None]
    rank = smallest(set.intersection(*ranks), margins)
    if rank is None:
        return None
    judged = {outcome_of(target.judged.grafts[rank], target.judged.alone) for target in targets}
    return rank if judged == {outcome} else None
