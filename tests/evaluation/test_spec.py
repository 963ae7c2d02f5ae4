"""Skill files and what identifies an spec."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contextgraft.errors import ContextgraftError, InputError
from contextgraft.evaluation.spec import EvalSpec
from contextgraft.evaluation.suites.needle_grid import DEFAULT_FORMAT, NeedleGrid, read_grid
from contextgraft.evaluation.suites.ruler import read_ruler
from contextgraft.evaluation.suites.skill_file import read_skill_file
from contextgraft.prompts.haystack import Haystack


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ('{"prompt": "a", "answer": "b"}\n{"prompt": "a"}\n', "line 2 is not a prompt with its answer"),
        ("not json\n", "line 1 is not a prompt with its answer"),
        ("[1]\n", "line 1 is not a prompt with its answer"),
        ('{"prompt": "a", "answer": " "}\n', "line 1 is not a prompt with its answer"),
    ],
)
def test_bad_skill_files_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "skill.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_skill_file(path)


def test_missing_files_are_refused(tmp_path: Path, skill_file: Path) -> None:
    with pytest.raises(InputError, match="cannot read the skill file"):
        read_skill_file(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="fewer lines"):
        read_skill_file(skill_file, 14)
    with pytest.raises(ContextgraftError, match="cannot read"):
        read_grid(tmp_path / "none.yaml", lengths=(1,), depths=(0.0,), samples=1, distractors=0)


def test_the_shipped_format_is_whole() -> None:
    grid = read_grid(None, lengths=(1024,), depths=(0.0,), samples=1, distractors=3)
    assert DEFAULT_FORMAT.is_file()
    assert len(grid.haystack.text) > 10_000


def test_the_digest_distinguishes_specifications(grid: NeedleGrid, skill_file: Path) -> None:
    skill = read_skill_file(skill_file)
    ruler = read_ruler(lengths=(512,), samples=1)
    spec = EvalSpec((grid, skill), seed=1)

    def changed(**values: Any) -> EvalSpec:
        return replace(spec, question_sets=(replace(grid, **values), skill))

    others = [
        replace(spec, seed=2),
        replace(spec, question_sets=(skill,)),
        replace(spec, question_sets=(grid,)),
        replace(spec, question_sets=(grid, replace(skill, samples=3))),
        changed(haystack=Haystack("filler.txt", "other words")),
        changed(distractors=0),
        changed(format=grid.format.model_copy(update={"scoring": "contains"})),
        replace(spec, question_sets=(grid, grid, skill)),
        changed(values="number"),
        replace(spec, question_sets=(grid, ruler, skill)),
        replace(spec, question_sets=(grid, replace(ruler, tasks=("vt",)), skill)),
        replace(spec, question_sets=(grid, replace(ruler, samples=2), skill)),
    ]
    assert len({each.questions_digest() for each in [spec, *others]}) == 1 + len(others)
    moved = replace(spec, question_sets=(grid, replace(skill, file="elsewhere.jsonl")))
    assert moved.questions_digest() == spec.questions_digest()
