"""The finest cells of a study, and how they are chosen and pooled: pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from contextgraft.report.statistics.proportion import Tally, pool

NEEDLE = "needle"
RULER = "ruler"
SKILL = "skill"
SINGLE = "single"

TALLY = ("n", "hits", "truncated", "skipped", "failed", "reason", "shortest", "longest")


@dataclass(frozen=True, order=True)
class Who:
    """A row of the table: a model, or the models of several donors taken together."""

    role: str
    name: str = ""
    rank: int = 0
    scale: float = 1.0


@dataclass(frozen=True)
class Fact:
    """Samples of one model, task, length and depth; `donor` tells the seeds apart."""

    who: Who
    donor: str | None
    suite: str
    task: str
    distractors: int | None
    length: int | None
    depth: float | None
    tally: Tally
    kind: str = SINGLE
    haystack: str = ""
    scoring: str = ""


@dataclass(frozen=True, order=True)
class Condition:
    """What was asked: needles of one format and kind, in one haystack, among so many distractors."""

    task: str
    distractors: int
    kind: str = SINGLE
    haystack: str = ""


@dataclass(frozen=True)
class Cell:
    """Samples pooled over donors, and the same by donor."""

    tally: Tally
    by_donor: tuple[tuple[str, Tally], ...] = ()

    @property
    def spread(self) -> tuple[float, float] | None:
        """Lowest and highest share of the donors; None with fewer than two of them scored."""
        scores = [tally.score for _, tally in self.by_donor if tally.score is not None]
        return (min(scores), max(scores)) if len(scores) > 1 else None


def fact(row: Mapping[str, Any]) -> Fact:
    """One row of sql/facts.sql."""
    return Fact(
        who=who(row),
        donor=row["donor"],
        suite=row["suite"],
        task=row["task"],
        distractors=row["distractors"],
        length=row["length"],
        depth=row["depth"],
        tally=Tally(**{name: row[name] for name in TALLY}),
        kind=row["kind"],
        haystack=row["haystack"],
        scoring=row["scoring"],
    )


def who(row: Mapping[str, Any]) -> Who:
    """The row of the table that a row of a query belongs to; models are named by their digests."""
    name = row["target"] or row.get("base") or ""
    return Who(row["role"], name, row["rank"] or 0, 1.0 if row["scale"] is None else row["scale"])


def cell(facts: Iterable[Fact]) -> Cell:
    """Everything given, pooled."""
    chosen = list(facts)
    donors = sorted({item.donor for item in chosen if item.donor is not None})
    by_donor = tuple((donor, pool(item.tally for item in chosen if item.donor == donor)) for donor in donors)
    return Cell(pool(item.tally for item in chosen), by_donor)


def condition(item: Fact) -> Condition:
    """The needle condition a fact belongs to."""
    return Condition(item.task, item.distractors or 0, item.kind, item.haystack)


def needles(facts: Iterable[Fact], row: Who, asked: Condition, length: int | None = None) -> list[Fact]:
    """The needle facts of one row, at one length or at all."""
    return [
        item
        for item in facts
        if item.suite == NEEDLE
        and item.who == row
        and condition(item) == asked
        and length in (None, item.length)
    ]


def skills(facts: Iterable[Fact], row: Who) -> list[Fact]:
    """The skill facts of one row; of a task with several metrics those of its first."""
    own = [item for item in facts if item.suite == SKILL and item.who == row]
    shown = first_metrics((item.task, item.scoring) for item in own)
    return [item for item in own if shown[item.task] == item.scoring]


def first_metrics(asked: Iterable[tuple[str, str]]) -> dict[str, str]:
    """By task the metric that counts where it has several, the first by name: no prompt counts twice."""
    chosen: dict[str, str] = {}
    for task, scoring in asked:
        chosen[task] = min(chosen.get(task, scoring), scoring)
    return chosen


def singles(facts: Iterable[Fact]) -> list[Fact]:
    """The facts of single needles, or of all needles where no single one was asked."""
    asked = [item for item in facts if item.suite == NEEDLE]
    return [item for item in asked if item.kind == SINGLE] or asked


def conditions(facts: Iterable[Fact], rows: Iterable[Who]) -> tuple[Condition, ...]:
    """The needle conditions that rows are judged by, sorted.

    Of single needles the condition that was asked most often at their longest length; all of them where
    several were asked equally often. The others stand in a table of their own.
    """
    wanted = set(rows)
    own = singles(item for item in facts if item.who in wanted)
    longest = max((item.length for item in own if item.length is not None), default=None)
    asked = Counter({condition(item): 0 for item in own})
    for item in own:
        asked[condition(item)] += item.tally.asked if item.length == longest else 0
    most = max(asked.values(), default=0)
    return tuple(sorted(each for each, count in asked.items() if count == most))
