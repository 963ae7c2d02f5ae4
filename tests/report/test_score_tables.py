"""Tables of RULER's tasks, of kinds of needles and of skills."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contextgraft.config.ruler_tasks import RULER_TASKS
from contextgraft.report.data.links import link
from contextgraft.report.data.names import row_names
from contextgraft.report.data.samples import read
from contextgraft.report.statistics.cells import fact
from contextgraft.report.statistics.study_table import Study, build
from contextgraft.report.tables import score_tables, sheets


def study_of(folder: Path) -> Study:
    samples = read([folder])
    return build([fact(row) for row in samples.rows("facts")], row_names(samples.rows("labels")))


def ruler(synthetic: SimpleNamespace, hits: int, **changes: Any) -> Iterator[dict[str, Any]]:
    """All 13 tasks at one length, 10 prompts each."""
    for task in RULER_TASKS:
        for row in synthetic.skill(synthetic.Model("style"), task, hits, n=10):
            yield {**row, "suite": "ruler", **changes}


def test_the_effective_length_is_the_longest_that_is_good_enough(
    tmp_path: Path, synthetic: SimpleNamespace
) -> None:
    rows = [
        row
        for length, hits in ((4096, 10), (8192, 9), (16384, 8))
        for row in ruler(synthetic, hits, length=length)
    ]
    synthetic.write(tmp_path / "a.parquet", rows)
    ((family, (row,)),) = score_tables.effective_lengths(study_of(tmp_path))
    assert (family, row.length.length) == (score_tables.OTHERS, 8192)
    assert [(length, tasks) for length, _, tasks in row.means] == [(4096, 13), (8192, 13), (16384, 13)]
    assert [mean for _, mean, _ in row.means] == pytest.approx([100, 90, 80])


def test_it_is_not_told_where_a_task_did_not_run(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = [row for row in ruler(synthetic, 10, length=4096) if not row["task"].startswith("qa")]
    synthetic.write(tmp_path / "a.parquet", rows)
    study = study_of(tmp_path)
    (sheet,) = sheets.effective(score_tables.effective_lengths(study))
    ((_, ((_, slots),)),) = sheet.blocks
    said = "not told: 11 of 13 tasks ran at every length"
    assert [slot.value or slot.gap for slot in slots] == ["100", said]
    assert sheet.note == "Did not run at every length: qa_1, qa_2."


def test_rulers_tasks_stand_in_its_own_order(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    synthetic.write(tmp_path / "a.parquet", list(ruler(synthetic, 10, length=4096)))
    (grid,) = score_tables.ruler(study_of(tmp_path))
    assert [block.title for block in grid.blocks] == list(RULER_TASKS)


def test_other_kinds_stand_beside_single_needles(results: Path) -> None:
    tables = {grid.title: grid for grid in score_tables.needle_kinds(study_of(results))}
    assert list(tables) == ["facts", "style", "sure"]
    style = tables["style"]
    assert [block.title for block in style.blocks] == [
        "needle_style, 3 distractors",
        "plain, noise, 3 distractors",
        "several, multi value, 3 distractors",
    ]
    several = dict(zip(style.columns, style.blocks[2].rows[0][1], strict=True))["graft r8"]
    # all four right by half, two donors
    assert (several.cell.tally.hits, several.cell.tally.n) == (4, 8)
    assert several.link == link(
        tune="style",
        row="graft r8",
        suite="needle",
        task="several",
        kind="multi_value",
        distractors=3,
        length=1024,
    )


def test_one_kind_alone_needs_no_table(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    synthetic.write(tmp_path / "a.parquet", list(synthetic.needle(synthetic.Model("style"), "n", 128, 5)))
    assert score_tables.needle_kinds(study_of(tmp_path)) == []


def test_skills_stand_one_by_one_where_there_are_several(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    model = synthetic.Model("style")
    rows = [*synthetic.skill(model, "a", 5, n=10), *synthetic.skill(model, "b", 1, n=10, scoring="acc")]
    rows += synthetic.skill(model, "b", 3, n=10, scoring="acc_norm")
    synthetic.write(tmp_path / "a.parquet", rows)
    study = study_of(tmp_path)
    (grid,) = score_tables.skills(study)
    assert [block.title for block in grid.blocks] == ["a, exact", "b, acc", "b, acc_norm"]
    # the pooled column takes each task's first metric
    assert (study.others[0].skill.tally.hits, study.others[0].skill.tally.n) == (6, 20)


def test_what_has_no_score_says_why(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = synthetic.unscored(ruler(synthetic, 1, length=4096), "skipped", "no weights here")
    synthetic.write(tmp_path / "a.parquet", rows)
    (grid,) = score_tables.ruler(study_of(tmp_path))
    slot = sheets.of_grid(grid).blocks[0][1][0][1][0]
    assert (slot.value, slot.fill, slot.gap) == ("", "", "10 skipped: no weights here")


@pytest.mark.parametrize(
    ("wanted", "address"),
    [
        ({"row": "graft r8", "depth": 50.0, "kind": None}, "row=graft+r8&depth=50"),
        ({"row": "a&b=#"}, "row=a%26b%3D%23"),
    ],
)
def test_addresses_are_escaped(wanted: dict[str, Any], address: str) -> None:
    assert link(**wanted) == f"#samples?{address}"
