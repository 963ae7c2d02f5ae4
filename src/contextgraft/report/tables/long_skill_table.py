"""Tables of skills behind a long text, against the short prompts of the same lines: pure."""

from collections.abc import Sequence

from contextgraft.report.data.labels import ModelFamily, families
from contextgraft.report.data.sample_browser import link
from contextgraft.report.statistics.cells import LONG_SKILL
from contextgraft.report.statistics.grouping import group_by
from contextgraft.report.statistics.means import Measurements
from contextgraft.report.statistics.paired import LongSkillPairs
from contextgraft.report.statistics.proportion import NOT_EVALUATED
from contextgraft.report.statistics.study_table import StudyTable
from contextgraft.report.tables.score_tables import length_label
from contextgraft.report.tables.table import ScoreTable, TableCell, TableRow, TableSection, shown_columns
from contextgraft.report.tables.wording import between_points, percent, signed, thousands


def long_skill_tables(study: StudyTable, measurements: Measurements) -> list[ScoreTable]:
    """One table for each family: a column for each model, a section for each skill, a row for each length."""
    by_model = measurements.long_skills_by_model
    tables = []
    for family in families(study):
        own = [item for _, model in family.models for item in by_model.get(model, ())]
        if own:
            tables.append(_table(family, own))
    return tables


def _table(family: ModelFamily, own: Sequence[LongSkillPairs]) -> ScoreTable:
    measured = {item.model for item in own}
    rows = group_by(own, lambda item: (item.task, item.scoring, item.length))
    columns, note = shown_columns([item for item in family.models if item[1] in measured], len(rows))
    sections: dict[str, list[TableRow]] = {}
    for (task, scoring, length), items in sorted(rows.items()):
        of_model = {item.model: item for item in items}
        cells = tuple(_cell(of_model.get(model), family.name, label) for label, model in columns)
        sections.setdefault(f"{task}, {scoring}" if scoring else task, []).append(
            TableRow(length_label(length), cells)
        )
    return ScoreTable(
        family.name,
        tuple(label for label, _ in columns),
        tuple(TableSection(title, tuple(lines)) for title, lines in sections.items()),
        note,
    )


def _cell(item: LongSkillPairs | None, family: str, label: str) -> TableCell:
    """The difference in points, its interval, and both shares."""
    if item is None or item.pairs.difference is None:
        return TableCell(missing=NOT_EVALUATED)
    points = item.pairs.difference
    shares = f"{percent(item.pairs.first)} long, {percent(item.pairs.second)} short"
    address = link(tune=family, row=label, suite=LONG_SKILL, task=item.task, length=item.length)
    detail = f"{between_points(points)} n={thousands(item.pairs.n)}: {shares}"
    return TableCell(signed(points.points), detail, link=address)
