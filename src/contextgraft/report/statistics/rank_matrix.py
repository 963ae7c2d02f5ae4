"""The matrix fine-tune by rank: context gained, skill kept, what no smaller rank beats: pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from contextgraft.report.data.titles import tune_titles
from contextgraft.report.statistics.proportion import Difference, difference
from contextgraft.report.statistics.study_table import FineTune, Row, Study
from contextgraft.report.statistics.verdict import Outcome
from contextgraft.report.tables.wording import between_points, measured, signed

RECOMMENDED = "◆"
NEAREST = "◇"
MARKS = {RECOMMENDED: "recommended", NEAREST: "fails least"}
THETA = 0  # the column of the control: the new theta and no delta


@dataclass(frozen=True)
class Spot:
    """One fine-tune at one rank: needles found above the fine-tune alone, and skill against it, in points."""

    row: Row
    gained: Difference | None
    kept: Difference | None
    front: bool = False
    mark: str = ""

    @property
    def gap(self) -> str:
        """Why there is no figure of the context; empty where there is one."""
        return "" if self.gained else self.row.long.tally.gap or "the fine-tune alone was not scored"

    @property
    def words(self) -> str:
        """The spot in words, with n and intervals."""
        if self.gained is None:
            return f"context {self.gap}"
        parts = [
            f"context {signed(self.gained.points)} points {between_points(self.gained)}, "
            f"{measured(self.row.long)}",
            _skill(self.row, self.kept),
        ]
        parts += ["no smaller rank is as good in both"] if self.front else []
        parts += [MARKS[self.mark]] if self.mark else []
        return "; ".join(parts)


@dataclass(frozen=True)
class Line:
    """One fine-tune of the matrix; `spots` by rank, theta only under rank 0."""

    title: str
    tune: FineTune
    spots: dict[int, Spot]


def matrix(study: Study) -> list[Line]:
    """A line for each fine-tune that has grafts."""
    return [line(title, tune) for title, tune in tune_titles(study) if tune.grafts]


def columns(lines: Sequence[Line]) -> list[int]:
    """All ranks of the matrix, theta only first."""
    return sorted({rank for each in lines for rank in each.spots})


def line(title: str, tune: FineTune) -> Line:
    """The spots of one fine-tune."""
    rows = {THETA: tune.theta, **{row.who.rank: row for row in tune.grafts}}
    steps = {rank: difference(row.long.tally, tune.alone.long.tally) for rank, row in rows.items()}
    chosen = front(
        {
            row.who.rank: (gained.points, row.step.points)
            for row in tune.grafts
            if (gained := steps[row.who.rank]) and row.step
        }
    )
    return Line(
        title,
        tune,
        {
            rank: Spot(row, steps[rank], row.step, front=rank in chosen, mark=_mark(tune, row))
            for rank, row in rows.items()
        },
    )


def front(points: dict[int, tuple[float, float]]) -> set[int]:
    """The ranks that no smaller one equals or betters in context and skill: the Pareto front of all three."""
    return {
        rank
        for rank, (context, skill) in points.items()
        if not any(
            other < rank and points[other][0] >= context and points[other][1] >= skill for other in points
        )
    }


def _mark(tune: FineTune, row: Row) -> str:
    """The smallest rank that brings the context and keeps the skill, or the one that fails least."""
    if row is not tune.best:
        return ""
    return RECOMMENDED if tune.verdict.outcome is Outcome.BOTH else NEAREST


def _skill(row: Row, kept: Difference | None) -> str:
    if kept is None:
        return "skill not measured"
    size = f"n={row.pairs.n} prompts" if row.pairs.n else f"n={row.skill.tally.n}"
    return f"skill {signed(kept.points)} points {between_points(kept)}, {size}"
