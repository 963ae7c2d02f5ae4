"""The rules of the verdict: did the context come, did the skill stay: pure.

- The context *came* if at least 95 % of the needles at the longest length were found.
- The skill *stayed* if its share is at most 2 points below the fine-tune's own.
- The verdict names the smallest rank at which both hold. Otherwise it names the rank that fails least:
  among ranks that brought the context the one with the best skill, else the one that found most needles.
- Shares are judged as measured, not by their intervals, which are shown with them. Where samples are paired,
  the skill is compared on the pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from contextgraft.report.statistics.cells import Cell
from contextgraft.report.statistics.paired import UNPAIRED, PairCounts

CAME = 0.95
POINTS = 2.0
ENOUGH = 100  # a needle cell with fewer scored prompts is called a small sample


class VerdictOutcome(Enum):
    """The outcome for one fine-tune, as summary.json has it."""

    BOTH = "both"
    CONTEXT_ONLY = "context only"
    SKILL_UNKNOWN = "context came, skill not measured"
    NEITHER = "context did not come"
    UNKNOWN = "not measured"


@dataclass(frozen=True)
class Evidence:
    """The scores of one model that the rules look at."""

    needle: Cell
    skill: Cell
    pairs: PairCounts = UNPAIRED


@dataclass(frozen=True)
class Verdict:
    """Outcome for one fine-tune, the rank it names, and the scores of the controls without an adapter."""

    outcome: VerdictOutcome
    rank: int | None
    graft: Evidence | None
    alone: Evidence
    theta: Evidence

    @property
    def adapter_unneeded(self) -> bool:
        """Whether the context came without an adapter: for the fine-tune alone, or with theta only."""
        return came(self.alone.needle) or came(self.theta.needle)


def came(needle: Cell) -> bool:
    """Whether enough needles were found at the longest length."""
    return needle.proportion.score is not None and needle.proportion.score >= CAME


def stayed(graft: Evidence, own: Evidence) -> bool | None:
    """Whether the skill is close enough to the fine-tune's own; None if either was not measured."""
    if graft.pairs.n:
        # sums of fractions (several donors for one prompt) may exceed the limit by a rounding error
        return 100 * (graft.pairs.lost - graft.pairs.gained) <= (POINTS + 1e-9) * graft.pairs.n
    after, before = graft.skill.proportion, own.skill.proportion
    if after.score is None or before.score is None:
        return None
    # whole numbers of answers: 0.98 against 1.00 must count as two points in floating point too
    return 100 * (before.hits * after.n - after.hits * before.n) <= POINTS * before.n * after.n


def judge(alone: Evidence, theta: Evidence, grafts: Mapping[int, Evidence]) -> Verdict:
    """The verdict for one fine-tune; `grafts` by rank, at scale 1."""
    measured = {rank: graft for rank, graft in sorted(grafts.items()) if graft.needle.proportion.n}
    if not measured:
        return Verdict(VerdictOutcome.UNKNOWN, None, None, alone, theta)
    with_context = [rank for rank, graft in measured.items() if came(graft.needle)]
    with_both = [rank for rank in with_context if stayed(measured[rank], alone)]
    if with_both:
        outcome, rank = VerdictOutcome.BOTH, with_both[0]
    elif with_context:
        unknown = all(stayed(measured[rank], alone) is None for rank in with_context)
        outcome = VerdictOutcome.SKILL_UNKNOWN if unknown else VerdictOutcome.CONTEXT_ONLY
        rank = max(with_context, key=lambda rank: (measured[rank].skill.proportion.score or 0.0, -rank))
    else:
        outcome = VerdictOutcome.NEITHER
        rank = max(measured, key=lambda rank: (measured[rank].needle.proportion.score or 0.0, -rank))
    return Verdict(outcome, rank, measured[rank], alone, theta)
