"""Figures and verdicts in words: pure."""

from collections.abc import Callable, Sequence

from contextgraft.report.statistics.cells import Cell
from contextgraft.report.statistics.proportion import Difference
from contextgraft.report.statistics.verdict import CAME, ENOUGH, Outcome, Verdict, came, stayed

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
DASH = "\N{EN DASH}"


def percent(share: float) -> str:
    """A share in percent with one decimal where it has one: 97 %, 99.3 %."""
    return f"{trimmed(100 * share)} %"


def trimmed(value: float) -> str:
    """One decimal, dropped where it is zero."""
    return f"{value:.1f}".removesuffix(".0")


def signed(value: float) -> str:
    """Points with their sign, one decimal."""
    rounded = f"{abs(value):.1f}"
    if rounded == "0.0":
        return "0.0"
    return ("+" if value > 0 else MINUS) + rounded


def between(pair: tuple[float, float]) -> str:
    """Two shares as [92, 99]."""
    return f"[{100 * pair[0]:.0f}, {100 * pair[1]:.0f}]"


def between_points(step: Difference) -> str:
    """Interval of a difference as [−1.2, +0.4]."""
    return f"[{signed(step.low)}, {signed(step.high)}]"


def spread(cell: Cell) -> str:
    """How the donors differ: `3 donors 96–98 %`; empty with fewer than two."""
    if cell.spread is None:
        return ""
    low, high = cell.spread
    if low == high:
        return f"{len(cell.by_donor)} donors, each {percent(low)}"
    return f"{len(cell.by_donor)} donors {trimmed(100 * low)}{DASH}{trimmed(100 * high)} %"


def thousands(number: int) -> str:
    """1,024."""
    return f"{number:,}"


def figure(value: object) -> str:
    """A number from a sidecar without needless decimals; a dash where it holds none."""
    return f"{value:,.0f}" if isinstance(value, int | float) else DASH


def against(length: int, context: int | None) -> str:
    """A length beside the base's context, where that is known: `8× the base's context`."""
    if context is None:
        return ""
    if length == context:
        return "the base's context"
    if length < context:
        return f"within the base's own {thousands(context)}"
    return f"{trimmed(length / context)}{TIMES} the base's context"


def measured(cell: Cell) -> str:
    """`97 % [92, 99], n=100`, with what was not scored and how the donors differ."""
    parts = [f"{percent(cell.tally.score or 0.0)} {between(cell.tally.interval)}", f"n={cell.tally.n}"]
    if cell.tally.unscored:
        parts.append(f"not scored: {cell.tally.gap}")
    if cell.spread is not None:
        parts.append(spread(cell))
    return ", ".join(parts)


def place(long: int, context: int | None) -> str:
    """`1,024 tokens (8× the base's context)`."""
    beside = against(long, context)
    return f"{thousands(long)} tokens ({beside})" if beside else f"{thousands(long)} tokens"


def unbroken(text: str) -> str:
    """The same text with figures that no line break parts from their sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def sentence(verdict: Verdict, where: str) -> str:
    """The verdict of one fine-tune in one sentence; `where` names the longest length."""
    return " ".join(part for part in (SENTENCES[verdict.outcome](verdict, where), _controls(verdict)) if part)


def _both(verdict: Verdict, where: str) -> str:
    return (
        f"the context came ({_needle(verdict)}) at {where}, and the skill stayed ({_skills(verdict)}); "
        f"smallest rank that does it: {verdict.rank}."
    )


def _context_only(verdict: Verdict, where: str) -> str:
    return (
        f"the context came ({_needle(verdict)}) at {where}, but the skill did not stay: {_skills(verdict)} "
        f"at rank {verdict.rank}, the best of the ranks that brought the context."
    )


def _skill_unknown(verdict: Verdict, where: str) -> str:
    return (
        f"the context came ({_needle(verdict)}) at {where} with rank {verdict.rank}; "
        "whether the skill stayed was not measured."
    )


def _neither(verdict: Verdict, where: str) -> str:
    return (
        f"the context did not come: at {where} the best graft, rank {verdict.rank}, reaches "
        f"{_needle(verdict)}{_skill_beside(verdict)}."
    )


def _unknown(verdict: Verdict, where: str) -> str:  # noqa: ARG001 - one signature for all outcomes
    return f"not measured: no graft has a scored needle at {where}."


SENTENCES: dict[Outcome, Callable[[Verdict, str], str]] = {
    Outcome.BOTH: _both,
    Outcome.CONTEXT_ONLY: _context_only,
    Outcome.SKILL_UNKNOWN: _skill_unknown,
    Outcome.NEITHER: _neither,
    Outcome.UNKNOWN: _unknown,
}


def _needle(verdict: Verdict) -> str:
    assert verdict.graft is not None, "an outcome with a rank has its evidence"
    few = ", a small sample" if verdict.graft.needle.tally.n < ENOUGH else ""
    return measured(verdict.graft.needle) + few


def _skills(verdict: Verdict) -> str:
    """Both shares and, where the same prompts were asked, their difference with its interval."""
    assert verdict.graft is not None
    after, before = verdict.graft.skill.tally, verdict.alone.skill.tally
    shares = f"{percent(after.score or 0.0)} against {percent(before.score or 0.0)} of the fine-tune"
    step = verdict.graft.pairs.step
    if step is None:
        return shares
    return f"{shares}, {signed(step.points)} points {between_points(step)}, n={verdict.graft.pairs.n}"


def _skill_beside(verdict: Verdict) -> str:
    assert verdict.graft is not None
    kept = stayed(verdict.graft, verdict.alone)
    if kept is None:
        return ""
    return f"; the skill {'stayed' if kept else 'did not stay'} ({_skills(verdict)})"


def _controls(verdict: Verdict) -> str:
    """What was reached without an adapter, and a warning where that is enough."""
    shown = {"alone": verdict.alone.needle, "with the new theta only": verdict.theta.needle}
    reached = [
        f"{name} {percent(cell.tally.score)}" for name, cell in shown.items() if cell.tally.score is not None
    ]
    if not reached:
        return "Its control rows were not measured."
    without = f"Without the adapter: {', '.join(reached)}."
    if came(verdict.alone.needle):
        return f"{without} It had the context before, so this shows nothing about the adapter."
    if came(verdict.theta.needle):
        return f"{without} The new theta alone is enough here, so the context is not the adapter's doing."
    return without


def headline(verdicts: Sequence[Verdict], where: str, donor: Cell | None = None) -> str:
    """The whole study in one sentence, with what chance and the donor leave open."""
    if not verdicts:
        return "No graft is among these samples: scores are shown, nothing is judged."
    good = [verdict for verdict in verdicts if verdict.outcome is Outcome.BOTH]
    needless = sum(verdict.needless for verdict in good)
    caveat = f"; {needless} of them would have it without the adapter" if needless else ""
    subject = _subject(len(good), len(verdicts))
    doubts = f"{caveat}{_within_chance(good)}{_short_donor(donor)}"
    return f"{subject} took the context of {where} and kept {_its(len(good))} skill{doubts}."


def _within_chance(good: Sequence[Verdict]) -> str:
    """Of how many the interval reaches below the limit, though the share does not."""
    low = sum(item.graft is not None and item.graft.needle.tally.interval[0] < CAME for item in good)
    return f"; by the measured share, for the interval of {low} reaches below {percent(CAME)}" if low else ""


def _short_donor(donor: Cell | None) -> str:
    """What the donor finds, where it misses the limit itself: no graft can be blamed for that."""
    if donor is None or not donor.tally.n or came(donor):
        return ""
    return f"; the donor itself finds {measured(donor)} there"


def _subject(good: int, judged: int) -> str:
    if good == 0:
        return "No fine-tune" if judged == 1 else f"None of {judged} fine-tunes"
    if good < judged:
        return f"{good} of {judged} fine-tunes"
    return "The fine-tune" if judged == 1 else f"All {judged} fine-tunes"


def _its(good: int) -> str:
    return "their" if good > 1 else "its"
