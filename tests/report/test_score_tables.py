"""Tables of RULER's tasks, of kinds of needles, of skills and of suites without a section of their own."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contextgraft.config.ruler_tasks import RULER_TASKS
from contextgraft.report.data.labels import OTHERS, model_names
from contextgraft.report.data.sample_browser import link
from contextgraft.report.data.samples import read_samples
from contextgraft.report.statistics.cells import score_group
from contextgraft.report.statistics.effective_length import effective_lengths
from contextgraft.report.statistics.study_table import StudyTable, build_study_table
from contextgraft.report.tables.measurement_tables import effective_length_tables
from contextgraft.report.tables.score_tables import needle_tables, ruler_tables, skill_tables


def study_of(folder: Path) -> StudyTable:
    samples = read_samples([folder])
    groups = [score_group(row) for row in samples.rows("score_groups")]
    return build_study_table(groups, model_names(samples.rows("labels")))


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
        for row in ruler(synthetic, hits, length=length, chat=1)
    ]
    synthetic.write(tmp_path / "a.parquet", rows)
    ((family, (row,)),) = effective_lengths(study_of(tmp_path))
    assert (family, row.length.length) == (OTHERS, 8192)
    assert [(mean.length, mean.tasks) for mean in row.means] == [(4096, 13), (8192, 13), (16384, 13)]
    assert [mean.mean for mean in row.means] == pytest.approx([100, 90, 80])
    assert all(mean.low < mean.mean <= mean.high for mean in row.means)


def test_a_template_and_failed_prompts_count(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = list(ruler(synthetic, 9, length=4096, chat=1))
    rows[0] |= {"status": "failed", "score": None, "reason": "out of memory"}
    synthetic.write(tmp_path / "a.parquet", rows)
    ((_, (row,)),) = effective_lengths(study_of(tmp_path))
    assert (row.threshold, row.length.length) == (85.6, 4096)
    assert row.means[0].mean == pytest.approx((12 * 90 + 80) / 13)


def test_a_task_whose_prompts_all_failed_counts_as_wrong(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = list(ruler(synthetic, 10, length=4096, chat=1))
    for row in rows[:10]:
        row |= {"status": "failed", "score": None, "reason": "out of memory"}
    synthetic.write(tmp_path / "a.parquet", rows)
    ((_, (result,)),) = effective_lengths(study_of(tmp_path))
    assert result.means[0].tasks == 13
    assert result.means[0].mean == pytest.approx(12 * 100 / 13)
    for row in rows:
        row |= {"status": "failed", "score": None, "reason": "out of memory"}
    synthetic.write(tmp_path / "a.parquet", rows)
    assert effective_lengths(study_of(tmp_path)) == []


def test_it_is_not_computed_if_a_task_did_not_run(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = [row for row in ruler(synthetic, 10, length=4096) if not row["task"].startswith("qa")]
    synthetic.write(tmp_path / "a.parquet", rows)
    study = study_of(tmp_path)
    (table,) = effective_length_tables(effective_lengths(study))
    ((row,),) = (section.rows for section in table.sections)
    missing = "not computed: only 11 of 13 tasks have scores at every length"
    assert [cell.value or cell.missing for cell in row.cells] == ["100", missing, *["not evaluated"] * 2]
    assert table.note == "Tasks without scores at every length: qa_1, qa_2."


def test_rulers_tasks_are_in_its_own_order(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    synthetic.write(tmp_path / "a.parquet", list(ruler(synthetic, 10, length=4096)))
    (table,) = ruler_tables(study_of(tmp_path))
    assert [section.title for section in table.sections] == list(RULER_TASKS)


def test_other_kinds_are_in_a_table_with_single_needles(results: Path) -> None:
    tables = {table.title: table for table in needle_tables(study_of(results))}
    assert list(tables) == ["facts", "style", "sure"]
    style = tables["style"]
    assert [section.title for section in style.sections] == [
        "needle_style, 3 distractors",
        "plain, noise, 3 distractors",
        "several, multi value, 3 distractors",
    ]
    several = dict(zip(style.columns, style.sections[2].rows[0].cells, strict=True))["graft r8"]
    # all four right by half, two donors
    assert (several.value, several.detail) == ("50 %", "[15, 85] n=8")
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
    assert needle_tables(study_of(tmp_path)) == []


def test_several_skills_are_shown_one_by_one(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    model = synthetic.Model("style")
    rows = [*synthetic.skill(model, "a", 5, n=10), *synthetic.skill(model, "b", 1, n=10, scoring="acc")]
    rows += synthetic.skill(model, "b", 3, n=10, scoring="acc_norm")
    synthetic.write(tmp_path / "a.parquet", rows)
    study = study_of(tmp_path)
    (table,) = skill_tables(study)
    assert [section.title for section in table.sections] == ["a, exact", "b, acc", "b, acc_norm"]
    # the pooled column takes each task's first metric
    assert (study.others[0].skill.proportion.hits, study.others[0].skill.proportion.n) == (6, 20)


def test_what_has_no_score_says_why(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = synthetic.unscored(ruler(synthetic, 1, length=4096), "skipped", "no weights here")
    synthetic.write(tmp_path / "a.parquet", rows)
    (table,) = ruler_tables(study_of(tmp_path))
    cell = table.sections[0].rows[0].cells[0]
    assert (cell.value, cell.fill, cell.missing) == ("", "", "10 skipped: no weights here")


@pytest.mark.parametrize(
    ("wanted", "address"),
    [
        ({"row": "graft r8", "depth": 50.0, "kind": None}, "row=graft+r8&depth=50"),
        ({"row": "a&b=#"}, "row=a%26b%3D%23"),
    ],
)
def test_addresses_are_escaped(wanted: dict[str, Any], address: str) -> None:
    assert link(**wanted) == f"#samples?{address}"
