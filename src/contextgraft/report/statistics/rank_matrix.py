"""The matrix of fine-tune by rank: context gained, skill kept, Pareto front: pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from contextgraft.report.data.labels import target_titles
from contextgraft.report.statistics.paired import UNPAIRED, PairCounts
from contextgraft.report.statistics.proportion import Difference, difference
from contextgraft.report.statistics.study_table import ModelRow, StudyTable, TargetResult
from contextgraft.report.statistics.verdict import VerdictOutcome, outcome_of
from contextgraft.report.tables.wording import between_points, by_text, measured, signed

RECOMMENDED = "◆"
NEAREST = "◇"
MARKS = {RECOMMENDED: "recommended", NEAREST: "fails least"}
THETA = 0  # the column of the control with the new theta and no delta


@dataclass(frozen=True)
class MatrixCell:
    """One fine-tune at one rank: needles found above the fine-tune alone, and skill against it, in points.

    `pairs` are the needles that both answered.
    """

    row: ModelRow
    gained: Difference | None
    kept: Difference | None
    outcome: VerdictOutcome = VerdictOutcome.UNKNOWN
    on_front: bool = False
    mark: str = ""
    pairs: PairCounts = UNPAIRED

    @property
    def missing(self) -> str:
        """Why the gain in context is unknown; empty if it is known."""
        if self.gained:
            return ""
        return self.row.long.proportion.unscored_reason or "the fine-tune alone was not scored"

    @property
    def description(self) -> str:
        """The cell in words, with n and intervals."""
        if self.gained is None:
            return f"context {self.missing}"
        gained = f"{signed(self.gained.points)} points {between_points(self.gained)}"
        phrases = [
            f"context {gained}{by_text(self.pairs)}, {measured(self.row.long)}",
            _skill(self.row, self.kept),
        ]
        phrases += ["no smaller rank is as good in both"] if self.on_front else []
        phrases += [MARKS[self.mark]] if self.mark else []
        return "; ".join(phrases)


@dataclass(frozen=True)
class MatrixLine:
    """One fine-tune of the matrix; `cells` by rank, theta only under rank 0."""

    title: str
    target: TargetResult
    cells: dict[int, MatrixCell]


def rank_matrix(study: StudyTable) -> list[MatrixLine]:
    """A line for each fine-tune that has grafts."""
    return [matrix_line(title, target, study) for title, target in target_titles(study) if target.grafts]


def matrix_ranks(lines: Sequence[MatrixLine]) -> list[int]:
    """The columns of the matrix: all ranks, theta only first."""
    return sorted({rank for line in lines for rank in line.cells})


def matrix_line(title: str, target: TargetResult, study: StudyTable) -> MatrixLine:
    """The cells of one fine-tune."""
    rows = {THETA: target.theta, **{row.model.rank: row for row in target.grafts}}
    pairs = {rank: needle_pairs(study, row) for rank, row in rows.items()}
    gains = {
        rank: pairs[rank].difference or difference(row.long.proportion, target.alone.long.proportion)
        for rank, row in rows.items()
    }
    front = pareto_front(
        {
            row.model.rank: (gained.points, row.skill_difference.points)
            for row in target.grafts
            if (gained := gains[row.model.rank]) and row.skill_difference
        }
    )
    return MatrixLine(
        title,
        target,
        {
            rank: MatrixCell(
                row,
                gains[rank],
                row.skill_difference,
                outcome_of(row.evidence, target.alone.evidence),
                rank in front,
                mark(target, row),
                pairs[rank],
            )
            for rank, row in rows.items()
        },
    )


def needle_pairs(study: StudyTable, row: ModelRow) -> PairCounts:
    """The needles of a row at the longest length, paired with those of its fine-tune alone."""
    if row.condition is None:
        return UNPAIRED
    return study.needle_pairs.get((row.model, row.condition, study.longest), UNPAIRED)


def pareto_front(points: dict[int, tuple[float, float]]) -> set[int]:
    """The ranks whose (context, skill) no smaller rank equals or exceeds in both."""
    return {
        rank
        for rank, (context, skill) in points.items()
        if not any(
            other < rank and points[other][0] >= context and points[other][1] >= skill for other in points
        )
    }


def mark(target: TargetResult, row: ModelRow) -> str:
    """The mark of the row that the verdict names: the rank to use, or the one that fails least.

    Where no adapter is needed, none is recommended.
    """
    if row is not target.best:
        return ""
    if target.verdict.advised:
        return RECOMMENDED
    return "" if target.verdict.passed and target.verdict.adapter_unneeded else NEAREST


def _skill(row: ModelRow, kept: Difference | None) -> str:
    if kept is None:
        return "skill not measured"
    size = f"n={row.pairs.n} prompts" if row.pairs.n else f"n={row.skill.proportion.n}"
    return f"skill {signed(kept.points)} points {between_points(kept)}, {size}"
