"""The table of scores of lm-evaluation-harness: pure."""

from collections.abc import Sequence

from contextgraft.report.data.document_pairs import DocumentPairs
from contextgraft.report.data.lm_eval_results import LmEvalScore
from contextgraft.report.tables.table import MOST_CELLS, ScoreTable, TableCell, TableRow, TableSection
from contextgraft.report.tables.wording import DASH, thousands

PAIR_COLUMNS = ("metric", "difference", "graft", "fine-tune", "n", "p")
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


def lm_eval_pair_tables(pairs: Sequence[DocumentPairs]) -> list[ScoreTable]:
    """One table with a section for each fine-tune and graft, a row for each task and metric."""
    sections: dict[str, list[TableRow]] = {}
    for item in pairs[:MOST_ROWS]:
        title = f"{item.graft} against {item.fine_tune}"
        sections.setdefault(title, []).append(TableRow(item.task, _pair_cells(item)))
    rows = tuple(TableSection(title, tuple(own)) for title, own in sections.items())
    return [ScoreTable("Grafts against their fine-tunes, by document", PAIR_COLUMNS, rows)] if rows else []


def _pair_cells(item: DocumentPairs) -> tuple[TableCell, ...]:
    metric = TableCell(item.metric or DASH)
    if item.reason:
        return (metric, TableCell(missing=item.reason), *[TableCell(DASH)] * (len(PAIR_COLUMNS) - 2))
    detail = "[{:+.3g}, {:+.3g}]".format(*item.interval) if item.interval else ""
    return (
        metric,
        TableCell(f"{item.difference:+.3g}", detail),
        TableCell(f"{item.after:.4g}"),
        TableCell(f"{item.before:.4g}"),
        TableCell(thousands(item.n)),
        TableCell(DASH if item.p_value is None else f"{item.p_value:.2g}"),
    )
