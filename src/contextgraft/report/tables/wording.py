"""Numbers and verdicts in words: pure."""

from collections.abc import Callable

from contextgraft.report.statistics.cells import Cell
from contextgraft.report.statistics.paired import PairCounts
from contextgraft.report.statistics.proportion import BOOTSTRAP, Difference, difference
from contextgraft.report.statistics.verdict import (
    ENOUGH,
    RECOMMENDED_OUTCOMES,
    ControlComparison,
    Verdict,
    VerdictOutcome,
    has_context,
    keeps_skill,
)

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
DASH = "\N{EN DASH}"


def percent(share: float) -> str:
    """A share in percent, with one decimal if that is not zero: 97 %, 99.3 %."""
    return f"{trimmed(100 * share)} %"


def trimmed(value: float) -> str:
    """One decimal, dropped if it is zero."""
    return f"{value:.1f}".removesuffix(".0")


def signed(value: float) -> str:
    """Points with their sign, one decimal."""
    rounded = f"{abs(value):.1f}"
    if rounded == "0.0":
        return "0.0"
    return ("+" if value > 0 else MINUS) + rounded


def between(pair: tuple[float, float]) -> str:
    """An interval of shares as [92, 99], in percent."""
    return f"[{100 * pair[0]:.0f}, {100 * pair[1]:.0f}]"


def between_points(difference: Difference) -> str:
    """The interval of a difference as [−1.2, +0.4]; a bootstrap interval is named as one."""
    method = f" {BOOTSTRAP}" if difference.method == BOOTSTRAP else ""
    return f"[{signed(difference.low)}, {signed(difference.high)}]{method}"


def by_text(pairs: PairCounts) -> str:
    """`, by text [−1.2, +0.4]` where prompts share texts and the interval is not that already; else empty."""
    points = pairs.difference
    found = None if points is None or points.method == BOOTSTRAP else pairs.by_text
    return f", by text [{signed(found.low)}, {signed(found.high)}]" if found else ""


def spread(cell: Cell) -> str:
    """How the donors differ: `3 donors 96–98 %`; empty with fewer than two."""
    if cell.spread is None:
        return ""
    low, high = cell.spread
    if low == high:
        return f"{len(cell.by_donor)} donors, each {percent(low)}"
    return f"{len(cell.by_donor)} donors {trimmed(100 * low)}{DASH}{trimmed(100 * high)} %"


def thousands(number: int) -> str:
    """A whole number with separators: `1,024`."""
    return f"{number:,}"


def rounded(value: object) -> str:
    """A number from a sidecar without decimals; a dash if there is none."""
    return f"{value:,.0f}" if isinstance(value, int | float) else DASH


def relative_to_context(length: int, context: int | None) -> str:
    """A length as a multiple of the base's context: `8× the base's context`; empty if that is unknown."""
    if context is None:
        return ""
    if length == context:
        return "the base's context"
    if length < context:
        return f"within the base's own {thousands(context)}"
    return f"{trimmed(length / context)}{TIMES} the base's context"


def measured(cell: Cell) -> str:
    """`97 % [92, 99], n=100`, with what was not scored and how the donors differ."""
    proportion = cell.proportion
    phrases = [f"{percent(proportion.score or 0.0)} {between(proportion.interval)}", f"n={proportion.n}"]
    if proportion.unscored:
        phrases.append(f"not scored: {proportion.unscored_reason}")
    if cell.spread is not None:
        phrases.append(spread(cell))
    return ", ".join(phrases)


def length_in_words(length: int, context: int | None) -> str:
    """`1,024 tokens (8× the base's context)`."""
    multiple = relative_to_context(length, context)
    return f"{thousands(length)} tokens ({multiple})" if multiple else f"{thousands(length)} tokens"


def unbroken(text: str) -> str:
    """The same text with no-break spaces before percent signs."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def sentence(verdict: Verdict, length: str, *, compared: bool = True) -> str:
    """The verdict of one fine-tune in a few sentences; `length` is the longest one, in words.

    `compared`: one of them says what the graft adds to each control.
    """
    phrases = SENTENCES[verdict.outcome](verdict, length), _controls(verdict, compared=compared)
    return " ".join(phrase for phrase in phrases if phrase)


def _both(verdict: Verdict, length: str) -> str:
    works = f"the long context works ({_needle(verdict)}) at {length}, and the skill is kept"
    if not verdict.held:
        return (
            f"{works} ({_skills(verdict)}) at rank {verdict.rank}, {other_prompts(verdict)}{NOTHING_SHOWN}."
        )
    margin = " with a margin" if verdict.chosen_with_margin else ""
    smallest = f"smallest rank for both{margin}{_everywhere(verdict)}{_chosen(verdict)}"
    return f"{works} ({_skills(verdict)}); {smallest}: {verdict.rank}."


def _context_only(verdict: Verdict, length: str) -> str:
    return (
        f"the long context works ({_needle(verdict)}) at {length}, but the skill is lost: {_skills(verdict)} "
        f"at rank {verdict.rank}, {_name(verdict, 'the best of the ranks with long context')}."
    )


def _skill_unknown(verdict: Verdict, length: str) -> str:
    works = f"the long context works ({_needle(verdict)}) at {length} with rank {verdict.rank}"
    if not verdict.held:
        return f"{works}, {other_prompts(verdict)}{NOTHING_SHOWN}; the skill was not measured."
    return f"{works}{_smallest(verdict)}{_chosen(verdict)}; the skill was not measured."


def _neither(verdict: Verdict, length: str) -> str:
    name = _name(verdict, "the best graft")
    return (
        f"the long context fails: at {length} {name}, rank {verdict.rank}, reaches "
        f"{_needle(verdict)}{_skill_of_best(verdict)}."
    )


def _unknown(verdict: Verdict, length: str) -> str:  # noqa: ARG001 - one signature for all outcomes
    return f"not measured: no graft has a scored needle{f' at {length}' if length else ''}."


SENTENCES: dict[VerdictOutcome, Callable[[Verdict, str], str]] = {
    VerdictOutcome.BOTH: _both,
    VerdictOutcome.CONTEXT_ONLY: _context_only,
    VerdictOutcome.SKILL_UNKNOWN: _skill_unknown,
    VerdictOutcome.NEITHER: _neither,
    VerdictOutcome.UNKNOWN: _unknown,
}


def _needle(verdict: Verdict) -> str:
    assert verdict.graft is not None, "an outcome with a rank has the scores of its graft"
    few = ", a small sample" if verdict.graft.needle.proportion.n < ENOUGH else ""
    return measured(verdict.graft.needle) + few


def _skills(verdict: Verdict) -> str:
    """Both shares and, if the same prompts were answered, their difference with its interval."""
    assert verdict.graft is not None, "an outcome with a rank has the scores of its graft"
    after, before = verdict.graft.skill.proportion, verdict.alone.skill.proportion
    shares = f"{percent(after.score or 0.0)} against {percent(before.score or 0.0)} of the fine-tune"
    paired = verdict.graft.pairs.difference
    if paired is None:
        return shares
    points = f"{signed(paired.points)} points {between_points(paired)}"
    return f"{shares}, {points}, n={verdict.graft.pairs.n}"


def _skill_of_best(verdict: Verdict) -> str:
    assert verdict.graft is not None, "an outcome with a rank has the scores of its graft"
    kept = keeps_skill(verdict.graft, verdict.alone)
    if kept is None:
        return ""
    return f"; the skill is {'kept' if kept else 'lost'} ({_skills(verdict)})"


def _controls(verdict: Verdict, *, compared: bool) -> str:
    """The scores without an adapter, and a warning if they are good enough."""
    cells = {"alone": verdict.alone.needle, "with the new theta only": verdict.theta.needle}
    cells |= {name: verdict.controls[name].needle for name in verdict.controls if name in verdict.free}
    scores = [
        f"{name} {percent(cell.proportion.score)}"
        for name, cell in cells.items()
        if cell.proportion.score is not None
    ]
    if not scores:
        return "Its control rows were not measured."
    without = f"Without the adapter: {', '.join(scores)}."
    if has_context(verdict.alone.needle):
        return f"{without} The fine-tune alone passes, so this shows nothing about the adapter."
    if has_context(verdict.theta.needle):
        return f"{without} The new theta alone passes, so the adapter is not needed for the context."
    added = _added(verdict) if compared else ""
    if verdict.free_alternatives:
        names = " and ".join(verdict.free_alternatives)
        return f"{without}{added} {names} by the config alone passes, so the adapter is not needed."
    return f"{without}{added}"


def _chosen(verdict: Verdict) -> str:
    """On how many other prompts the rank was chosen; empty where prompts are not split."""
    if verdict.chosen_on is None:
        return ""
    return f", chosen on {verdict.chosen_on.needle.proportion.n} other prompts"


def _everywhere(verdict: Verdict) -> str:
    """Said of a rank that another needle condition needs; this one alone would name a smaller rank."""
    return " under every needle condition" if verdict.rank != verdict.own_rank else ""


def _smallest(verdict: Verdict) -> str:
    everywhere = _everywhere(verdict)
    return f", the smallest{everywhere}" if everywhere else ""


def _name(verdict: Verdict, best: str) -> str:
    """`best`, or what else the graft is that other prompts chose."""
    if verdict.chosen_on is None:
        return best
    on = _chosen(verdict).removeprefix(", chosen")
    if verdict.chosen in RECOMMENDED_OUTCOMES:
        return f"the graft that passed{on}"
    return f"{best}{on}" if verdict.held else f"the graft that failed least{on}"


def other_prompts(verdict: Verdict) -> str:
    """What the graft of a verdict did on the prompts that chose its rank, as a relative clause."""
    return CHOSEN_WORDS[verdict.chosen]


NOTHING_SHOWN = ", so this is not shown"
CHOSEN_WORDS = {
    VerdictOutcome.BOTH: "which passed on other prompts",
    VerdictOutcome.SKILL_UNKNOWN: "which passed on other prompts, without a skill",
    VerdictOutcome.CONTEXT_ONLY: "which lost the skill on the prompts that chose it",
    VerdictOutcome.NEITHER: "which failed on the prompts that chose it",
}


def _added(verdict: Verdict) -> str:
    """What the graft adds to each control, in points; on the same prompts where they can be paired."""
    if verdict.graft is None or not (verdict.controls or verdict.comparisons):
        return ""
    if verdict.comparisons:
        above = [_comparison(comparison) for comparison in verdict.comparisons]
        words = "The graft on the same prompts, in points of the needles (and of the skill)"
        return f" {words}: {', '.join(above)}."
    found = verdict.graft.needle.proportion
    compared = {"theta only": verdict.theta, **verdict.controls}
    above = [
        f"{_points(points)} over {name}"
        for name, control in compared.items()
        if (points := difference(found, control.needle.proportion))
    ]
    return f" The graft's needles in points: {', '.join(above)}." if above else ""


def _comparison(comparison: ControlComparison) -> str:
    needles, skill = comparison.needles.difference, comparison.skill.difference
    shown = f"{_points(needles)}{by_text(comparison.needles)}" if needles else ""
    measured = [shown or "needles not measured"]
    measured += [f"({_points(skill)})"] if skill else []
    return f"{' '.join(measured)} over {comparison.label}"


def _points(points: Difference) -> str:
    return f"{signed(points.points)} {between_points(points)}"
