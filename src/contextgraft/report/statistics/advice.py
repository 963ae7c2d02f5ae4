"""Which rank to use for a fine-tune, under all of its needle conditions: pure.

The page and the recommendation for `contextgraft merge` both follow this decision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby

from contextgraft.report.statistics.study_table import TargetResult
from contextgraft.report.statistics.verdict import VerdictOutcome, outcome_of, ranks_with

# What counts as a recommendation, the better evidence first.
RECOMMENDED_OUTCOMES = (VerdictOutcome.BOTH, VerdictOutcome.SKILL_UNKNOWN)


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
    split, those that choose the rank must agree with those that it is judged on.
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


def _smallest_rank(targets: Sequence[TargetResult], outcome: VerdictOutcome) -> int | None:
    if not targets or any(target.verdict.chosen is not outcome for target in targets):
        return None
    ranks = [set(ranks_with(outcome, target.choosing.alone, target.choosing.grafts)) for target in targets]
    rank = min(set.intersection(*ranks), default=None)
    if rank is None:
        return None
    judged = {outcome_of(target.judged.grafts[rank], target.judged.alone) for target in targets}
    return rank if judged == {outcome} else None
