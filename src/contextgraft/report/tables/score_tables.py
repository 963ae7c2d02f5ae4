"""Tables of scores by model: needles of every kind and haystack, RULER's tasks, skills one by one: pure."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from contextgraft.config.ruler_tasks import RULER_TASKS
from contextgraft.report.data.links import link
from contextgraft.report.data.titles import described, reference_titles
from contextgraft.report.statistics.cells import (
    NEEDLE,
    RULER,
    SKILL,
    Cell,
    Condition,
    Fact,
    Who,
    cell,
    condition,
)
from contextgraft.report.statistics.study_table import Row, Study
from contextgraft.report.tables.wording import thousands
from contextgraft.stats import EffectiveLength, effective_length


@dataclass(frozen=True)
class Entry:
    """One cell of a table and the address of the samples behind it."""

    cell: Cell
    link: str


@dataclass(frozen=True)
class Block:
    """Rows of a table under one heading: a label and an entry for each column."""

    title: str
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]


@dataclass(frozen=True)
class Grid:
    """A table: models as columns."""

    title: str
    columns: tuple[str, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Family:
    """The models of one table: `tune` is the group's name among the samples."""

    tune: str
    rows: tuple[tuple[str, Who], ...]


def families(study: Study) -> list[Family]:
    """Base and donor, every fine-tune with its grafts, the other models; each model once."""
    found = [Family(REFERENCES, _once(reference_titles(study.references)))]
    names = dict.fromkeys((tune.digest, study.group(tune)) for tune in study.fine_tunes)
    for digest, name in names:
        rows = [row for tune in study.fine_tunes if tune.digest == digest for row in tune.rows]
        found.append(Family(name, _once([(row.label, row) for row in rows])))
    found.append(Family(OTHERS, _once(reference_titles(study.others))))
    return [family for family in found if family.rows]


def places(study: Study) -> dict[Who, tuple[str, str]]:
    """Group and label of every model, by which its samples are found."""
    return {who: (family.tune, label) for family in families(study) for label, who in family.rows}


REFERENCES = "Base and donor"
OTHERS = "Other models"


def _once(rows: Sequence[tuple[str, Row]]) -> tuple[tuple[str, Who], ...]:
    found: dict[Who, str] = {}
    for label, row in rows:
        found.setdefault(row.who, label)
    return tuple((label, who) for who, label in found.items())


def needle_kinds(study: Study) -> list[Grid]:
    """Needles of all kinds and haystacks by length, of families that were asked more than one condition."""
    return [
        table
        for family in families(study)
        if len((table := _grid(study, family, NEEDLE, _condition_title, _condition_filter)).blocks) > 1
    ]


def ruler(study: Study) -> list[Grid]:
    """RULER's tasks by length."""
    order = {name: place for place, name in enumerate(RULER_TASKS)}
    tables = [_grid(study, family, RULER, lambda item: item.task, _task_filter) for family in families(study)]
    return [
        Grid(
            table.title,
            table.columns,
            tuple(sorted(table.blocks, key=lambda block: (order.get(block.title, len(order)), block.title))),
        )
        for table in tables
        if table.blocks
    ]


def skills(study: Study) -> list[Grid]:
    """Skills task by task and metric by metric, where a family has more than one."""
    return [
        table
        for family in families(study)
        if len((table := _grid(study, family, SKILL, _skill_title, _task_filter)).blocks) > 1
    ]


@dataclass(frozen=True)
class Effective:
    """RULER's effective length of one model, its mean by length, and how many tasks the mean is over."""

    label: str
    length: EffectiveLength
    means: tuple[tuple[int, float, int], ...]


def effective_lengths(study: Study) -> list[tuple[str, list[Effective]]]:
    """By family, for every model that any of RULER's tasks was scored for."""
    found = []
    for family in families(study):
        rows = [(label, _by_length(study, who)) for label, who in family.rows]
        told = [
            Effective(
                label,
                effective_length(scores),
                tuple((length, sum(s.values()) / len(s), len(s)) for length, s in sorted(scores.items())),
            )
            for label, scores in rows
            if scores
        ]
        if told:
            found.append((family.tune, told))
    return found


def _by_length(study: Study, who: Who) -> dict[int, dict[str, float]]:
    """Mean scores in percent by length and task."""
    own = [item for item in study.facts if item.suite == RULER and item.who == who]
    scores: dict[int, dict[str, float]] = {}
    for length, task in sorted({(item.length or 0, item.task) for item in own}):
        share = cell(item for item in own if (item.length, item.task) == (length, task)).tally.score
        if share is not None:
            scores.setdefault(length, {})[task] = 100 * share
    return scores


def _grid(
    study: Study,
    family: Family,
    suite: str,
    title: Callable[[Fact], str],
    chosen: Callable[[Fact], dict[str, Any]],
) -> Grid:
    """One family's table of one suite: a block for each title, a row for each length."""
    whos = {who for _, who in family.rows}
    own = [item for item in study.facts if item.suite == suite and item.who in whos]
    asked = {item.who for item in own}
    shown = [(label, who) for label, who in family.rows if who in asked]
    found: dict[tuple[str, Hashable], list[Fact]] = {}
    for item in own:
        found.setdefault((title(item), item.length), []).append(item)
    blocks: dict[str, list[tuple[str, tuple[Entry, ...]]]] = {}
    for (name, length), facts in sorted(found.items(), key=lambda pair: (pair[0][0], pair[1][0].length or 0)):
        where = {"suite": suite, **chosen(facts[0]), "length": length}
        entries = tuple(
            Entry(cell(item for item in facts if item.who == who), link(tune=family.tune, row=label, **where))
            for label, who in shown
        )
        label = "all prompts" if facts[0].length is None else f"{thousands(facts[0].length)} tokens"
        blocks.setdefault(name, []).append((label, entries))
    return Grid(
        family.tune,
        tuple(label for label, _ in shown),
        tuple(Block(name, tuple(rows)) for name, rows in blocks.items()),
    )


def _condition_title(item: Fact) -> str:
    return described(condition(item))


def _condition_filter(item: Fact) -> dict[str, Any]:
    return of_condition(condition(item))


def of_condition(asked: Condition) -> dict[str, Any]:
    """What chooses the samples of one needle condition."""
    return {
        "task": asked.task,
        "kind": asked.kind,
        "haystack": asked.haystack or None,
        "distractors": asked.distractors or None,
    }


def _task_filter(item: Fact) -> dict[str, Any]:
    return {"task": item.task}


def _skill_title(item: Fact) -> str:
    return f"{item.task}, {item.scoring}" if item.scoring else item.task
