"""The table of a study: rows, columns, verdicts, from facts and names: pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contextgraft.report.facts import (
    Cell,
    Condition,
    Fact,
    Who,
    cell,
    conditions,
    needles,
    skills,
)
from contextgraft.report.tally import Difference, difference
from contextgraft.report.verdict import Evidence, Verdict, judge


@dataclass(frozen=True)
class Row:
    """A row of the table: needles at the base's context and at the longest length, skill, difference."""

    who: Who
    label: str
    condition: Condition | None
    short: Cell
    long: Cell
    skill: Cell
    step: Difference | None = None


@dataclass(frozen=True)
class FineTune:
    """A fine-tune under one needle condition: its rows in order, and what they say."""

    name: str
    digest: str
    condition: Condition
    rows: tuple[Row, ...]
    verdict: Verdict

    @property
    def alone(self) -> Row:
        """The untouched fine-tune."""
        return self.rows[0]

    @property
    def theta(self) -> Row:
        """The fine-tune with nothing but the new theta."""
        return self.rows[1]

    @property
    def grafts(self) -> tuple[Row, ...]:
        """The grafts at full scale, by rank."""
        return tuple(row for row in self.rows[2:] if row.who.scale == 1)

    @property
    def best(self) -> Row | None:
        """The graft the verdict is told of."""
        return next((row for row in self.grafts if row.who.rank == self.verdict.rank), None)


@dataclass(frozen=True)
class Study:
    """What the page shows of the samples.

    `context` is the base's where it is known; `short` and `longest` are the table's two needle lengths.
    """

    context: int | None
    short: int
    longest: int
    references: tuple[Row, ...]
    fine_tunes: tuple[FineTune, ...]
    others: tuple[Row, ...]
    facts: tuple[Fact, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows of the table, in its order."""
        return (*self.references, *(row for tune in self.fine_tunes for row in tune.rows), *self.others)

    @property
    def donor(self) -> Row | None:
        """The first row of the donors."""
        return next((row for row in self.references if row.who.role == "donor"), None)


def build(facts: Sequence[Fact], names: Mapping[Who, str], context: int | None = None) -> Study:
    """Arrange the facts; `names` has every row's model by name, `context` is the base's if it is known.

    The first needle column is at the base's context, or at the shortest length where none was asked there.
    """
    asked = sorted({item.length for item in facts if item.suite == "needle" and item.length is not None})
    short = context if context in asked else (asked[0] if asked else 0)
    longest = asked[-1] if asked else 0
    table = _Table(facts, names, short, longest)
    rows = sorted(names, key=lambda row: (names[row], row))
    by_role = {
        role: [row for row in rows if row.role == role] for role in ("base", "donor", "alone", "other")
    }
    targets = sorted(
        {row.name: names[row] for row in rows if row.role in {"alone", "theta", "graft"}}.items()
    )
    targets.sort(key=lambda item: item[1])
    return Study(
        context=context,
        short=short,
        longest=longest,
        references=tuple(
            line for role in ("base", "donor") for who in by_role[role] for line in table.rows(who)
        ),
        fine_tunes=tuple(tune for digest, name in targets for tune in table.fine_tunes(digest, name)),
        others=tuple(line for who in by_role["other"] for line in table.rows(who)),
        facts=tuple(facts),
    )


class _Table:
    """Makes rows from facts."""

    def __init__(self, facts: Sequence[Fact], names: Mapping[Who, str], short: int, longest: int) -> None:
        self._facts = facts
        self._names = names
        self._short = short
        self._longest = longest

    def rows(self, who: Who) -> list[Row]:
        """A row for each needle condition the model was asked; one without needles if there was none."""
        asked: Sequence[Condition | None] = conditions(self._facts, who) or (None,)
        return [self.row(who, self._names[who], condition) for condition in asked]

    def row(self, who: Who, label: str, condition: Condition | None, own: Cell | None = None) -> Row:
        """One row; `own` is the skill of the fine-tune it is compared with."""
        skill = cell(skills(self._facts, who))
        return Row(
            who=who,
            label=label,
            condition=condition,
            short=self._needle(who, condition, self._short),
            long=self._needle(who, condition, self._longest),
            skill=skill,
            step=difference(skill.tally, own.tally) if own else None,
        )

    def fine_tunes(self, digest: str, name: str) -> list[FineTune]:
        """The rows of one fine-tune, once for each needle condition any of them was asked."""
        whos = sorted(row for row in self._names if row.name == digest and row.role in {"theta", "graft"})
        grafts = [who for who in whos if who.role == "graft"]
        family = [Who("alone", digest), Who("theta", digest, 0, 0.0), *grafts]
        asked = sorted({condition for who in family for condition in conditions(self._facts, who)})
        return [self._fine_tune(digest, name, condition, family) for condition in asked]

    def _fine_tune(self, digest: str, name: str, condition: Condition, family: Sequence[Who]) -> FineTune:
        alone = self.row(family[0], "alone", condition)
        others = [self.row(who, graft_label(who), condition, alone.skill) for who in family[1:]]
        grafts = {row.who.rank: _evidence(row) for row in others[1:] if row.who.scale == 1}
        verdict = judge(_evidence(alone), _evidence(others[0]), grafts)
        return FineTune(name, digest, condition, (alone, *others), verdict)

    def _needle(self, who: Who, condition: Condition | None, length: int) -> Cell:
        if condition is None:
            return cell(())
        return cell(needles(self._facts, who, condition, length))


def graft_label(who: Who) -> str:
    """`theta only`, `graft r8`, or with its scale where that is not 1."""
    if who.role == "theta":
        return "theta only"
    scale = "" if who.scale == 1 else f" × {who.scale:g}"
    return f"graft r{who.rank}{scale}"


def _evidence(row: Row) -> Evidence:
    return Evidence(row.long, row.skill)
