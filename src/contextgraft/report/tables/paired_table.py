"""Tables of differences by prompt: skills behind a long text, long answers: pure."""

from collections.abc import Mapping, Sequence

from contextgraft.report.data.labels import ModelFamily, families
from contextgraft.report.data.sample_browser import link
from contextgraft.report.statistics.cells import LONG_SKILL, REPETITION, ModelKey
from contextgraft.report.statistics.grouping import group_by
from contextgraft.report.statistics.means import Measurements
from contextgraft.report.statistics.paired import LengthPairs
from contextgraft.report.statistics.proportion import NOT_EVALUATED, Difference
from contextgraft.report.statistics.study_table import StudyTable
from contextgraft.report.tables.score_tables import length_label
from contextgraft.report.tables.table import ScoreTable, TableCell, TableRow, TableSection, shown_columns
from contextgraft.report.tables.wording import between_points, by_text, percent, signed, thousands

SIDES = {LONG_SKILL: ("long", "short"), REPETITION: ("here", "alone")}
SHORT_PROMPTS = "short prompts"


def long_skill_tables(study: StudyTable, measurements: Measurements) -> list[ScoreTable]:
    """Skills behind a long text against the short prompts of the same lines, a table for each family."""
    return _tables(study, measurements.long_skills_by_model, LONG_SKILL)


def repetition_tables(study: StudyTable, measurements: Measurements) -> list[ScoreTable]:
    """Long answers of grafts and controls against those of the fine-tune, a table for each family."""
    return _tables(study, measurements.repetitions_by_model, REPETITION)


def _tables(
    study: StudyTable, by_model: Mapping[ModelKey, Sequence[LengthPairs]], suite: str
) -> list[ScoreTable]:
    own = (
        (family, [item for _, model in family.models for item in by_model.get(model, ())])
        for family in families(study)
    )
    return [_table(family, items, suite) for family, items in own if items]


def _table(family: ModelFamily, own: Sequence[LengthPairs], suite: str) -> ScoreTable:
    """A column for each model, a section for each skill and metric, a row for each length."""
    measured = {item.model for item in own}
    rows = group_by(own, lambda item: (item.task, item.scoring, item.length or 0))
    columns, note = shown_columns([item for item in family.models if item[1] in measured], len(rows))
    sections: dict[str, list[TableRow]] = {}
    for (task, scoring, length), items in sorted(rows.items()):
        of_model = {item.model: item for item in items}
        cells = tuple(_cell(of_model.get(model), suite, (family.name, label)) for label, model in columns)
        title = f"{task}, {scoring}" if scoring else task
        row = TableRow(length_label(length) if length else SHORT_PROMPTS, cells)
        sections.setdefault(title, []).append(row)
    return ScoreTable(
        family.name,
        tuple(label for label, _ in columns),
        tuple(TableSection(title, tuple(lines)) for title, lines in sections.items()),
        note,
    )


def _cell(item: LengthPairs | None, suite: str, labels: tuple[str, str]) -> TableCell:
    """The difference in points, its interval, and both shares."""
    if item is None or item.pairs.difference is None:
        return TableCell(missing=NOT_EVALUATED)
    points, (first, second) = item.pairs.difference, SIDES[suite]
    shares = f"{percent(item.pairs.first)} {first}, {percent(item.pairs.second)} {second}"
    address = link(tune=labels[0], row=labels[1], suite=suite, task=item.task, length=item.length)
    interval = ""
    if item.interval:
        shown = between_points(Difference(points.points, *item.interval, item.method))
        interval = f"{shown}{by_text(item.pairs)} "
    detail = f"{interval}n={thousands(item.pairs.n)}: {shares}"
    return TableCell(signed(points.points), detail, link=address)
