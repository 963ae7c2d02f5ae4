"""The rules of the verdict: does the long context work, is the skill kept. Pure functions.

- The long context *works* if at least 95 % of the needles at the longest length were found.
- The skill is *kept* if its share is at most 2 points below the fine-tune's own.
- The verdict names the smallest rank at which both hold; if no skill was measured, the smallest rank whose
  long context works. Otherwise it names the rank that fails least: among ranks with a working long context
  the one with the best skill, else the one that found most needles.
- The rank is chosen on one part of the prompts, and judged on the others: see `split_of` in formats.samples.
  Tables without splits, or with too few prompts for both, are chosen and judged on all of them.
- Where other prompts judge it, a rank is preferred that passes with a margin where it is chosen: the smallest
  whose share of needles is above the limit by a standard error, if there is one. Otherwise the smallest of
  several ranks just above the limit would be named by chance.
- Shares are judged as measured, not by their intervals, which are shown with them. Where all samples are
  paired, the skill is compared on the pairs.
- A sample that failed counts against the graft: as a needle not found, as an answer lost.
- A verdict is *established* if the whole 95 % interval of the needles and that of the skill's difference are
  within the limits, *likely* if only the measured shares are.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType

from contextgraft.report.statistics.cells import Cell
from contextgraft.report.statistics.paired import UNPAIRED, PairCounts
from contextgraft.report.statistics.proportion import Difference, difference
from contextgraft.stats import wilson

MIN_FOUND = 0.95  # of the needles at the longest length
MAX_LOST = 2.0  # points of the skill
ONE_STANDARD_ERROR = 0.6827  # confidence of an interval of one standard error to both sides
ENOUGH = 100  # a needle cell with fewer scored prompts is called a small sample


class VerdictOutcome(Enum):
    """The outcome for one fine-tune, as summary.json has it."""

    BOTH = "both"
    CONTEXT_ONLY = "context only"
    SKILL_UNKNOWN = "context came, skill not measured"
    NEITHER = "context did not come"
    UNKNOWN = "not measured"


# What counts as a recommendation, the better evidence first.
RECOMMENDED_OUTCOMES = (VerdictOutcome.BOTH, VerdictOutcome.SKILL_UNKNOWN)


class Strength(Enum):
    """How sure it is that a graft has the long context and kept the skill."""

    ESTABLISHED = "established"
    LIKELY = "likely"
    NOT_SHOWN = "not shown"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Evidence:
    """The scores of one model that the rules look at."""

    needle: Cell
    skill: Cell
    pairs: PairCounts = UNPAIRED


@dataclass(frozen=True)
class RankEvidence:
    """The scores of a fine-tune alone and of its grafts, by rank."""

    alone: Evidence
    grafts: Mapping[int, Evidence]


@dataclass(frozen=True)
class ControlComparison:
    """The graft of a verdict against a control, or against itself at another scale, on the same prompts."""

    label: str
    needles: PairCounts
    skill: PairCounts


@dataclass(frozen=True)
class Verdict:
    """Outcome for one fine-tune, the rank it names, and the scores of the controls.

    `controls` are those other than theta only, by label; `free` are the labels of those that only change the
    config. `chosen` is the outcome on the prompts that chose the rank, `chosen_on` their evidence for it;
    None where these are the same prompts. `advised`: the rank is the one to use under all needle conditions;
    `own_rank` is the rank that this condition alone names.
    """

    outcome: VerdictOutcome
    rank: int | None
    graft: Evidence | None
    alone: Evidence
    theta: Evidence
    controls: Mapping[str, Evidence] = field(default_factory=dict)
    free: Collection[str] = ()
    chosen: VerdictOutcome = VerdictOutcome.UNKNOWN
    chosen_on: Evidence | None = None
    comparisons: tuple[ControlComparison, ...] = ()
    advised: bool = False
    own_rank: int | None = None

    @property
    def held(self) -> bool:
        """Whether the prompts that the verdict is about gave the outcome of those that chose the rank."""
        return self.outcome is self.chosen

    @property
    def passed(self) -> bool:
        """Whether the graft passes, and did so on the prompts that chose its rank."""
        return self.held and self.outcome in RECOMMENDED_OUTCOMES

    @property
    def chosen_with_margin(self) -> bool:
        """Whether other prompts chose the rank, and found needles above the limit by a standard error."""
        return self.chosen_on is not None and has_margin(self.chosen_on.needle)

    @property
    def split_sizes(self) -> dict[str, dict[str, int]]:
        """How many prompts chose the rank, and how many the verdict is about; empty without a split."""
        if self.chosen_on is None or self.graft is None:
            return {}
        sides = {"chosen_on": self.chosen_on, "judged_on": self.graft}
        return {
            name: {"needles": side.needle.proportion.n, "skill": side.skill.proportion.n}
            for name, side in sides.items()
        }

    @property
    def free_alternatives(self) -> tuple[str, ...]:
        """Controls by the config alone with which the long context works and the skill is not lost."""
        return tuple(
            name for name, control in self.controls.items() if name in self.free and self._suffices(control)
        )

    @property
    def works_without(self) -> tuple[str, ...]:
        """With what the long context works, without an adapter and with the skill not lost."""
        alone = ("alone",) if has_context(self.alone.needle) else ()
        theta = ("theta only",) if self._suffices(self.theta) else ()
        return (*alone, *theta, *self.free_alternatives)

    @property
    def adapter_unneeded(self) -> bool:
        """Whether the long context works without an adapter: alone, with theta only, or by the config."""
        return bool(self.works_without)

    def _suffices(self, control: Evidence) -> bool:
        return has_context(control.needle) and keeps_skill(control, self.alone) is not False


def has_context(needle: Cell) -> bool:
    """Whether enough needles were found at the longest length; a failed prompt counts as not found."""
    found = needle.proportion
    return found.n > 0 and found.hits / (found.n + found.failed) >= MIN_FOUND


def has_margin(needle: Cell) -> bool:
    """Whether the share of needles found is above the limit by a standard error (Wilson's interval)."""
    found = needle.proportion
    hits, n = found.hits / found.repeats, (found.n + found.failed) / found.repeats
    return wilson(min(hits, n), n, ONE_STANDARD_ERROR)[0] >= MIN_FOUND


def keeps_skill(graft: Evidence, own: Evidence) -> bool | None:
    """Whether the skill is close enough to the fine-tune's own; None if either was not measured."""
    after, before = graft.skill.proportion, own.skill.proportion
    failed = after.failed + before.failed
    if graft.pairs.n and graft.pairs.n >= min(after.n, before.n):
        lost, n = graft.pairs.lost - graft.pairs.gained + failed, graft.pairs.n + failed
        # sums of fractions (several donors for one prompt) may exceed the limit by a rounding error
        return 100 * lost <= (MAX_LOST + 1e-9) * n
    if after.score is None or before.score is None:
        return None
    had, n_before, n_after = before.hits + before.failed, before.n + before.failed, after.n + after.failed
    # whole numbers of answers: 0.98 against 1.00 must count as two points in floating point too
    return 100 * (had * n_after - after.hits * n_before) <= MAX_LOST * n_before * n_after


def outcome_of(graft: Evidence, alone: Evidence) -> VerdictOutcome:
    """The outcome for one graft."""
    if not graft.needle.proportion.n:
        return VerdictOutcome.UNKNOWN
    if not has_context(graft.needle):
        return VerdictOutcome.NEITHER
    kept = keeps_skill(graft, alone)
    if kept is None:
        return VerdictOutcome.SKILL_UNKNOWN
    return VerdictOutcome.BOTH if kept else VerdictOutcome.CONTEXT_ONLY


def strength(verdict: Verdict) -> Strength:
    """How sure the verdict is, by the intervals of the graft that it names.

    Nothing is shown by a graft that passes only where it is judged, not on the prompts that chose its rank.
    """
    if verdict.graft is None:
        return Strength.NOT_MEASURED
    if not verdict.passed:
        return Strength.NOT_SHOWN
    if verdict.outcome is VerdictOutcome.SKILL_UNKNOWN:
        return Strength.NOT_MEASURED
    graft, alone = verdict.graft, verdict.alone
    complete = not graft.needle.proportion.failed + graft.skill.proportion.failed
    lost = skill_difference(graft, alone)
    within = graft.needle.proportion.interval[0] >= MIN_FOUND and lost is not None and lost.low >= -MAX_LOST
    return Strength.ESTABLISHED if complete and within else Strength.LIKELY


def skill_difference(graft: Evidence, alone: Evidence) -> Difference | None:
    """The skill against the fine-tune's own, in points: of the pairs, else of the shares."""
    return graft.pairs.difference or difference(graft.skill.proportion, alone.skill.proportion)


def ranks_with(outcome: VerdictOutcome, alone: Evidence, grafts: Mapping[int, Evidence]) -> list[int]:
    """The ranks with an outcome, smallest first."""
    return [rank for rank, graft in sorted(grafts.items()) if outcome_of(graft, alone) is outcome]


def judge(
    alone: Evidence,
    theta: Evidence,
    grafts: Mapping[int, Evidence],
    controls: Mapping[str, Evidence] = MappingProxyType({}),
    free: Collection[str] = (),
    *,
    choosing: RankEvidence | None = None,
) -> Verdict:
    """The verdict for one fine-tune; `grafts` by rank, at scale 1; `controls` and `free` as in Verdict.

    With `choosing`, the scores on other prompts, these choose the rank, with a margin if one has it.
    """
    used = choosing or RankEvidence(alone, grafts)
    rank = choose_rank(used, margin=choosing is not None)
    if rank is None or not grafts[rank].needle.proportion.n:
        return Verdict(VerdictOutcome.UNKNOWN, None, None, alone, theta, controls, free)
    return Verdict(
        outcome_of(grafts[rank], alone),
        rank,
        grafts[rank],
        alone,
        theta,
        controls,
        free,
        outcome_of(used.grafts[rank], used.alone),
        used.grafts[rank] if choosing else None,
        own_rank=rank,
    )


def advised_verdict(
    verdict: Verdict,
    rank: int,
    choosing: RankEvidence,
    judged: RankEvidence,
    comparisons: tuple[ControlComparison, ...],
) -> Verdict:
    """The verdict at the rank that is the one to use under all needle conditions."""
    return replace(
        verdict,
        outcome=outcome_of(judged.grafts[rank], judged.alone),
        rank=rank,
        graft=judged.grafts[rank],
        chosen=outcome_of(choosing.grafts[rank], choosing.alone),
        chosen_on=choosing.grafts[rank] if verdict.chosen_on else None,
        comparisons=comparisons,
        advised=True,
    )


def choose_rank(evidence: RankEvidence, *, margin: bool) -> int | None:
    """The rank that a verdict names, preferably with a margin; None if no graft has a scored needle."""
    measured = {rank: graft for rank, graft in sorted(evidence.grafts.items()) if graft.needle.proportion.n}
    if not measured:
        return None
    outcomes = {rank: outcome_of(graft, evidence.alone) for rank, graft in measured.items()}
    with_both = [rank for rank, outcome in outcomes.items() if outcome is VerdictOutcome.BOTH]
    with_context = [rank for rank, outcome in outcomes.items() if outcome is not VerdictOutcome.NEITHER]
    lost = [rank for rank in with_context if outcomes[rank] is VerdictOutcome.CONTEXT_ONLY]
    if with_both or (with_context and not lost):
        return smallest(with_both or with_context, [evidence] if margin else [])
    if lost:
        return max(lost, key=lambda rank: (measured[rank].skill.proportion.score or 0.0, -rank))
    return max(measured, key=lambda rank: (measured[rank].needle.proportion.score or 0.0, -rank))


def smallest(ranks: Collection[int], margins: Collection[RankEvidence]) -> int | None:
    """The smallest of the ranks; of those with a margin in all of `margins`, if there are any."""
    clear = [rank for rank in ranks if all(has_margin(scores.grafts[rank].needle) for scores in margins)]
    return min(clear or ranks, default=None)
