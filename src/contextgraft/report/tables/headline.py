"""The whole study in a few sentences: pure."""

from collections import Counter
from collections.abc import Sequence

from contextgraft.report.statistics.cells import Cell
from contextgraft.report.statistics.verdict import (
    MAX_LOST,
    MIN_FOUND,
    Strength,
    Verdict,
    has_context,
    strength,
)
from contextgraft.report.tables.wording import measured, percent, trimmed

SHOWN = (Strength.ESTABLISHED, Strength.LIKELY)


def headline(verdicts: Sequence[Verdict], length: str, donor: Cell | None = None) -> str:
    """The whole study in a few sentences: for how many fine-tunes how much is shown, and what limits that."""
    if not verdicts:
        return "No graft is among these samples: scores are shown, nothing is judged."
    passed = [verdict for verdict in verdicts if strength(verdict) in SHOWN]
    found, lost = percent(MIN_FOUND), trimmed(MAX_LOST)
    rule = (
        f"Established: the whole 95 % interval is within the limits (at least {found} of the needles found, "
        f"at most {lost} points of the skill lost); likely: the measured shares are."
    )
    subject = f"Long context with the skill kept at {length}: {_counted(verdicts)}."
    return f"{subject}{_without_adapter(passed)}{_weak_donor(donor)} {rule}"


def _counted(verdicts: Sequence[Verdict]) -> str:
    """`established for 2 of 4 fine-tunes, likely for 1, not shown for 1`."""
    counts = Counter(strength(verdict) for verdict in verdicts)
    number = len(verdicts)
    of_all = "the fine-tune" if number == 1 else f"all {number} fine-tunes"
    phrases = [
        (degree.value, of_all if counts[degree] == number else f"{counts[degree]}")
        for degree in Strength
        if counts[degree]
    ]
    first, *rest = (f"{words} for {count}" for words, count in phrases)
    total = "" if not rest else f" of {number} fine-tunes"
    return ", ".join([first + total, *rest])


def _without_adapter(passed: Sequence[Verdict]) -> str:
    count = sum(verdict.adapter_unneeded for verdict in passed)
    return f" {count} of them would pass without the adapter." if count else ""


def _weak_donor(donor: Cell | None) -> str:
    """The donor's own score if it fails the limit: the grafts cannot be expected to do better."""
    if donor is None or not donor.proportion.n or has_context(donor):
        return ""
    return f" The donor itself finds {measured(donor)} there."
