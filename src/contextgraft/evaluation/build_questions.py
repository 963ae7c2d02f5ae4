"""All questions of an exam, and one question again from its row of the table."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import Tokens
from contextgraft.evaluation.questions import (
    Question,
    grid_frame,
    needle_question,
    needle_questions,
    skill_question,
    skill_questions,
)
from contextgraft.evaluation.suites.ruler import desk, ruler_question, ruler_questions
from contextgraft.evaluation.suites.spec import Exam
from contextgraft.prompts.needle_prompt import build_prompt


def questions_of(exam: Exam, tokens: Tokens) -> list[Question]:
    """Needles first, then RULER's tasks, then skills."""
    questions = [q for grid in exam.grids for q in needle_questions(grid, tokens, exam.seed)]
    if exam.ruler is not None:
        questions += ruler_questions(exam.ruler, tokens, exam.seed)
    return questions + [q for skill in exam.skills for q in skill_questions(skill, tokens, exam.seed)]


def is_question(row: Mapping[str, Any]) -> bool:
    """Whether a row was asked with token ids of ours; tasks of lm-eval and measures were not."""
    return row["suite"] in REBUILDERS and "doc_id" not in json.loads(row["recipe"])


def rebuild(exam: Exam, tokens: Tokens, row: Mapping[str, Any]) -> Question:
    """The question of a row of the table, from its recipe.

    The exam needs the same formats, wording, data sets and skills; its lengths, samples and seed do not
    matter. Raises InputError if it lacks them, or if they are not those the recipe was drawn with.
    """
    return REBUILDERS[row["suite"]](exam, tokens, row, json.loads(row["recipe"]))


def rebuild_needle(exam: Exam, tokens: Tokens, row: Mapping[str, Any], recipe: dict[str, Any]) -> Question:
    """A needle's question, of the grid with the same format, kind and haystack."""
    label = f"{row['task']}, {row['kind']}, {row['haystack']}"
    named = [
        grid
        for grid in exam.grids
        if (grid.format.name, grid.kind, grid.haystack.name) == (row["task"], row["kind"], row["haystack"])
    ]
    grids = [grid for grid in named if grid.digest() == recipe["digest"]]
    check_found(named, grids, label, "give the format, kind, values and haystack the row was asked with")
    prompt = build_prompt(grid_frame(grids[0], tokens), recipe)
    return needle_question(grids[0], prompt, index=row["index"], seed=row["seed"])


def rebuild_ruler(exam: Exam, tokens: Tokens, row: Mapping[str, Any], recipe: dict[str, Any]) -> Question:
    """A question of one of RULER's tasks."""
    suites = [exam.ruler] if exam.ruler is not None and row["task"] in exam.ruler.tasks else []
    same = [suite for suite in suites if suite.digest(row["task"]) == recipe["digest"]]
    check_found(suites, same, row["task"], "give the wording and data set the row was asked with")
    return ruler_question(desk(same[0], tokens), recipe, index=row["index"], seed=row["seed"])


def rebuild_skill(exam: Exam, tokens: Tokens, row: Mapping[str, Any], recipe: dict[str, Any]) -> Question:
    """A line of a skill file."""
    named = [skill for skill in exam.skills if skill.name == row["task"]]
    same = [skill for skill in named if skill.digest == recipe.get("sha256")]
    check_found(named, same, row["task"], "give the skill file the row was asked with")
    return skill_question(same[0], recipe["line"], tokens.around(chat=False)[0], tokens, row["seed"])


def check_found(named: list[Any], same: list[Any], label: str, remedy: str) -> None:
    """InputError if nothing of the row's name was given, or something else under that name."""
    if not named:
        raise InputError(f"the exam does not hold {label}", remedy=remedy)
    if not same:
        raise InputError(f"{label} is not what the row was asked with", remedy=remedy)


REBUILDERS: dict[str, Callable[[Exam, Tokens, Mapping[str, Any], dict[str, Any]], Question]] = {
    "needle": rebuild_needle,
    "ruler": rebuild_ruler,
    "skill": rebuild_skill,
}
