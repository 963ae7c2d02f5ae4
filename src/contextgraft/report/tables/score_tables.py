"""Tables of scores by model: needles of every kind and haystack, RULER's tasks, skills one by one: pure."""

from collections.abc import Callable
from typing import Any

from contextgraft.config.ruler_tasks import RULER_TASKS
from contextgraft.report.data.labels import ModelFamily, described, families
from contextgraft.report.data.sample_browser import link
from contextgraft.report.statistics.cells import (
    NEEDLE,
    RULER,
    SKILL,
    NeedleCondition,
    ScoreGroup,
    by_model,
    cell,
    needle_condition,
)
from contextgraft.report.statistics.study_table import StudyTable
from contextgraft.report.tables.table import ScoreTable, TableRow, TableSection, score_cell, shown_columns
from contextgraft.report.tables.wording import thousands


def needle_tables(study: StudyTable) -> list[ScoreTable]:
    """Needles of all kinds and haystacks by length, of families with more than one needle condition."""
    tables = [
        _table(study, family, NEEDLE, _condition_title, _condition_filter) for family in families(study)
    ]
    return [table for table in tables if len(table.sections) > 1]


def ruler_tables(study: StudyTable) -> list[ScoreTable]:
    """RULER's tasks by length, in RULER's own order."""
    order = {name: index for index, name in enumerate(RULER_TASKS)}
    tables = [
        _table(study, family, RULER, lambda group: group.task, _task_filter) for family in families(study)
    ]
    return [
        ScoreTable(
            table.title,
            table.columns,
            tuple(
                sorted(
                    table.sections, key=lambda section: (order.get(section.title, len(order)), section.title)
                )
            ),
        )
        for table in tables
        if table.sections
    ]


def skill_tables(study: StudyTable) -> list[ScoreTable]:
    """Skills task by task and metric by metric, of families with more than one."""
    tables = [_table(study, family, SKILL, _skill_title, _task_filter) for family in families(study)]
    return [table for table in tables if len(table.sections) > 1]


def condition_filter(condition: NeedleCondition) -> dict[str, Any]:
    """What selects the samples of one needle condition."""
    return {
        "task": condition.task,
        "kind": condition.kind,
        "haystack": condition.haystack or None,
        "distractors": condition.distractors or None,
        "chat": 1 if condition.chat else None,
    }


def length_label(length: int | None) -> str:
    """`1,024 tokens`; `all prompts` where the suite has no lengths."""
    return "all prompts" if length is None else f"{thousands(length)} tokens"


def _table(
    study: StudyTable,
    family: ModelFamily,
    suite: str,
    title: Callable[[ScoreGroup], str],
    filters: Callable[[ScoreGroup], dict[str, Any]],
) -> ScoreTable:
    """One family's table of one suite: models as columns, a section for each title, a row for each length."""
    models = (model for _, model in family.models)
    own = [
        group for model in models for group in study.groups_by_model.get(model, ()) if group.suite == suite
    ]
    evaluated = {group.model for group in own}
    by_row: dict[tuple[str, int | None], list[ScoreGroup]] = {}
    for group in own:
        by_row.setdefault((title(group), group.length), []).append(group)
    evaluated_models = [(label, model) for label, model in family.models if model in evaluated]
    columns, note = shown_columns(evaluated_models, len(by_row))
    sections: dict[str, list[TableRow]] = {}
    for (name, length), groups in sorted(by_row.items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        address = {"suite": suite, **filters(groups[0]), "length": length}
        of_model = by_model(groups)
        cells = tuple(
            score_cell(
                cell(of_model.get(model, ())).proportion,
                link(tune=family.name, row=label, **address),
            )
            for label, model in columns
        )
        sections.setdefault(name, []).append(TableRow(length_label(length), cells))
    return ScoreTable(
        family.name,
        tuple(label for label, _ in columns),
        tuple(TableSection(name, tuple(rows)) for name, rows in sections.items()),
        note,
    )


def _condition_title(group: ScoreGroup) -> str:
    return described(needle_condition(group))


def _condition_filter(group: ScoreGroup) -> dict[str, Any]:
    return condition_filter(needle_condition(group))


def _task_filter(group: ScoreGroup) -> dict[str, Any]:
    return {"task": group.task}


def _skill_title(group: ScoreGroup) -> str:
    return f"{group.task}, {group.scoring}" if group.scoring else group.task
