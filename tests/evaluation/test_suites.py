"""Skill files and what identifies an exam."""

from dataclasses import replace
from pathlib import Path

import pytest

from contextgraft.errors import ContextgraftError, InputError
from contextgraft.evaluation.suites.spec import (
    DEFAULT_FORMAT,
    Exam,
    NeedleGrid,
    exam_digest,
    read_grid,
    read_ruler,
    read_skill,
)
from contextgraft.prompts.haystack import Haystack


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ('{"prompt": "a", "answer": "b"}\n{"prompt": "a"}\n', "line 2 is no question"),
        ("not json\n", "line 1 is no question"),
        ("[1]\n", "line 1 is no question"),
        ('{"prompt": "a", "answer": " "}\n', "line 1 is no question"),
    ],
)
def test_bad_skill_files_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "skill.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_skill(path)


def test_missing_files_are_refused(tmp_path: Path, skill_file: Path) -> None:
    with pytest.raises(InputError, match="cannot read the skill file"):
        read_skill(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="fewer lines"):
        read_skill(skill_file, 14)
    with pytest.raises(ContextgraftError, match="cannot read"):
        read_grid(tmp_path / "none.yaml", lengths=(1,), depths=(0.0,), samples=1, distractors=0)


def test_the_shipped_format_is_whole() -> None:
    grid = read_grid(None, lengths=(1024,), depths=(0.0,), samples=1, distractors=3)
    assert DEFAULT_FORMAT.is_file()
    assert len(grid.haystack.text) > 10_000


def test_the_digest_tells_exams_apart(grid: NeedleGrid, skill_file: Path) -> None:
    skill = read_skill(skill_file)
    ruler = read_ruler(lengths=(512,), samples=1)
    exam = Exam((grid,), (skill,), 1)
    others = [
        replace(exam, seed=2),
        replace(exam, grids=()),
        replace(exam, skills=()),
        replace(exam, skills=(replace(skill, samples=3),)),
        replace(exam, grids=(replace(grid, haystack=Haystack("filler.txt", "other words")),)),
        replace(exam, grids=(replace(grid, distractors=0),)),
        replace(exam, grids=(replace(grid, format=grid.format.model_copy(update={"scoring": "contains"})),)),
        replace(exam, grids=(grid, grid)),
        replace(exam, grids=(replace(grid, values="number"),)),
        replace(exam, ruler=ruler),
        replace(exam, ruler=replace(ruler, tasks=("vt",))),
        replace(exam, ruler=replace(ruler, samples=2)),
    ]
    assert len({exam_digest(each) for each in [exam, *others]}) == 1 + len(others)
    assert exam_digest(replace(exam, skills=(replace(skill, file="elsewhere.jsonl"),))) == exam_digest(exam)
