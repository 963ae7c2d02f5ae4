"""The table of a study: rows, columns, verdicts, from facts and names: pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from contextgraft.report.data.names import short
from contextgraft.report.statistics.cells import (
    Cell,
    Condition,
    Fact,
    Who,
    cell,
    conditions,
    needles,
    singles,
    skills,
)
from contextgraft.report.statistics.paired import UNPAIRED, Pairs
from contextgraft.report.statistics.proportion import Difference, difference
from contextgraft.report.statistics.verdict import Evidence, Verdict, judge


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
    pairs: Pairs = UNPAIRED


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
    def grafted(self) -> tuple[FineTune, ...]:
        """The fine-tunes that have a graft at full scale."""
        return tuple(tune for tune in self.fine_tunes if tune.grafts)

    def group(self, tune: FineTune) -> str:
        """The name of a fine-tune whatever it was asked; with its digest where others share it."""
        others = {other.digest for other in self.fine_tunes if other.name == tune.name}
        return tune.name if len(others) == 1 else f"{tune.name} {short(tune.digest)}"

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows of the table, in its order."""
        return (*self.references, *(row for tune in self.fine_tunes for row in tune.rows), *self.others)

    def places(self, row: Row) -> dict[tuple[int, float], Cell]:
        """The cells of a row by length and depth, as far as they were asked."""
        own = needles(self.facts, row.who, row.condition) if row.condition else []
        asked = sorted({(item.length or 0, item.depth or 0.0) for item in own if item.depth is not None})
        return {place: cell(item for item in own if (item.length, item.depth) == place) for place in asked}

    @property
    def donor(self) -> Row | None:
        """The first row of the donors."""
        return self._reference("donor")

    @property
    def base(self) -> Row | None:
        """The first row of the base."""
        return self._reference("base")

    def _reference(self, role: str) -> Row | None:
        return next((row for row in self.references if row.who.role == role), None)


def build(
    facts: Sequence[Fact],
    names: Mapping[Who, str],
    context: int | None = None,
    pairs: Mapping[Who, Pairs] = MappingProxyType({}),
) -> Study:
    """Arrange the facts; `names` has every row's model by name, `context` is the base's if it is known.

    The first needle column is at the base's context, or at the shortest length where none was asked there.
    `pairs` has the skills of the rows that can be paired with their fine-tune.
    """
    asked = sorted({item.length for item in singles(facts) if item.length is not None})
    short = context if context in asked else (asked[0] if asked else 0)
    longest = asked[-1] if asked else 0
    table = _Table(facts, names, pairs, short, longest)
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

    def __init__(
        self,
        facts: Sequence[Fact],
        names: Mapping[Who, str],
        pairs: Mapping[Who, Pairs],
        short: int,
        longest: int,
    ) -> None:
        self._facts = facts
        self._names = names
        self._pairs = pairs
        self._short = short
        self._longest = longest

    def rows(self, who: Who) -> list[Row]:
        """A row for each needle condition the model was asked; one without needles if there was none."""
        asked: Sequence[Condition | None] = conditions(self._facts, [who]) or (None,)
        return [self.row(who, self._names[who], condition) for condition in asked]

    def row(self, who: Who, label: str, condition: Condition | None, own: Cell | None = None) -> Row:
        """One row; `own` is the skill of the fine-tune it is compared with."""
        skill = cell(skills(self._facts, who))
        pairs = self._pairs.get(who, UNPAIRED)
        return Row(
            who=who,
            label=label,
            condition=condition,
            short=self._needle(who, condition, self._short),
            long=self._needle(who, condition, self._longest),
            skill=skill,
            step=(pairs.step or difference(skill.tally, own.tally)) if own else None,
            pairs=pairs,
        )

    def fine_tunes(self, digest: str, name: str) -> list[FineTune]:
        """The rows of one fine-tune, once for each needle condition any of them was asked."""
        whos = sorted(row for row in self._names if row.name == digest and row.role in {"theta", "graft"})
        grafts = [who for who in whos if who.role == "graft"]
        family = [Who("alone", digest), Who("theta", digest, 0, 0.0), *grafts]
        return [
            self._fine_tune(digest, name, condition, family) for condition in conditions(self._facts, family)
        ]

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
    return Evidence(row.long, row.skill, row.pairs)
