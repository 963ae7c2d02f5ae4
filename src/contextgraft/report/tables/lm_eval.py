"""The table of scores of lm-evaluation-harness: pure."""

from collections.abc import Sequence

from contextgraft.report.data.lm_eval_results import LmEvalScore
from contextgraft.report.tables.table import MOST_CELLS, ScoreTable, TableCell, TableRow, TableSection
from contextgraft.report.tables.wording import DASH, thousands

COLUMNS = ("metric", "value", "stderr", "n", "better")
BETTER = {True: "higher", False: "lower", None: DASH}
MOST_ROWS = MOST_CELLS // len(COLUMNS)


def lm_eval_tables(scores: Sequence[LmEvalScore]) -> list[ScoreTable]:
    """One table with a section for each model, a row for each task and metric; none without scores."""
    sections: dict[str, list[TableRow]] = {}
    for score in scores[:MOST_ROWS]:
        sections.setdefault(score.model, []).append(TableRow(score.task, _cells(score)))
    note = (
        f"The first {thousands(MOST_ROWS)} of {thousands(len(scores))} rows."
        if len(scores) > MOST_ROWS
        else ""
    )
    rows = tuple(TableSection(model, tuple(rows)) for model, rows in sections.items())
    return [ScoreTable("Tasks of lm-evaluation-harness", COLUMNS, rows, note)] if rows else []


def _cells(score: LmEvalScore) -> tuple[TableCell, ...]:
    metric = TableCell(score.metric or DASH)
    if score.value is None:
        return (metric, TableCell(missing=score.reason), *[TableCell(DASH)] * (len(COLUMNS) - 2))
    return (
        metric,
        TableCell(f"{score.value:.4g}"),
        TableCell(DASH if score.stderr is None else f"{score.stderr:.2g}"),
        TableCell(DASH if score.n is None else thousands(score.n)),
        TableCell(BETTER[score.higher_is_better]),
    )
