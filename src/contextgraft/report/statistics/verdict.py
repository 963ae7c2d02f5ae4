"""Did the context come, did the skill stay: the rules, pure.

- The context *came* when the share of needles found at the longest length is at least 95 %.
- The skill *stayed* when its share is at most 2 points below the fine-tune's own.
- The rank told is the smallest at which both hold. Where none does, it is the rank that fails least: among
  ranks that brought the context the one with the best skill, else the one that found most needles.
- Shares are judged as measured; their intervals stand beside them. Where samples are paired, the skill is
  compared on the pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from contextgraft.report.statistics.cells import Cell
from contextgraft.report.statistics.paired import UNPAIRED, Pairs

CAME = 0.95
POINTS = 2.0
ENOUGH = 100


class Outcome(Enum):
    """What became of one fine-tune."""

    BOTH = "both"
    CONTEXT_ONLY = "context only"
    SKILL_UNKNOWN = "context came, skill not measured"
    NEITHER = "context did not come"
    UNKNOWN = "not measured"


@dataclass(frozen=True)
class Evidence:
    """The two figures a rule looks at."""

    needle: Cell
    skill: Cell
    pairs: Pairs = UNPAIRED


@dataclass(frozen=True)
class Verdict:
    """Outcome of one fine-tune, the rank it is told of, and what the controls reached without an adapter."""

    outcome: Outcome
    rank: int | None
    graft: Evidence | None
    alone: Evidence
    theta: Evidence

    @property
    def needless(self) -> bool:
        """Whether the context came without any adapter: the fine-tune alone or the new theta reach it."""
        return came(self.alone.needle) or came(self.theta.needle)


def came(needle: Cell) -> bool:
    """Whether enough needles were found at the longest length."""
    return needle.tally.score is not None and needle.tally.score >= CAME


def stayed(graft: Evidence, own: Evidence) -> bool | None:
    """Whether the skill is close enough to the fine-tune's own; None where either was not measured."""
    if graft.pairs.n:
        # sums of fractions, where several donors answered one prompt: a hair over the limit is the limit
        return 100 * (graft.pairs.lost - graft.pairs.gained) <= (POINTS + 1e-9) * graft.pairs.n
    after, before = graft.skill.tally, own.skill.tally
    if after.score is None or before.score is None:
        return None
    # whole answers: 0.98 against 1.00 must count as two points in floating point too
    return 100 * (before.hits * after.n - after.hits * before.n) <= POINTS * before.n * after.n


def judge(alone: Evidence, theta: Evidence, grafts: Mapping[int, Evidence]) -> Verdict:
    """The verdict from the rows of one fine-tune; `grafts` by rank, at full scale."""
    measured = {rank: graft for rank, graft in sorted(grafts.items()) if graft.needle.tally.n}
    if not measured:
        return Verdict(Outcome.UNKNOWN, None, None, alone, theta)
    arrived = [rank for rank, graft in measured.items() if came(graft.needle)]
    kept = [rank for rank in arrived if stayed(measured[rank], alone)]
    if kept:
        outcome, rank = Outcome.BOTH, kept[0]
    elif arrived:
        unknown = all(stayed(measured[rank], alone) is None for rank in arrived)
        outcome = Outcome.SKILL_UNKNOWN if unknown else Outcome.CONTEXT_ONLY
        rank = max(arrived, key=lambda rank: (measured[rank].skill.tally.score or 0.0, -rank))
    else:
        outcome = Outcome.NEITHER
        rank = max(measured, key=lambda rank: (measured[rank].needle.tally.score or 0.0, -rank))
    return Verdict(outcome, rank, measured[rank], alone, theta)
