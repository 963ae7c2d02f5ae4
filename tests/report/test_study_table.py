"""The table of the synthetic study against figures counted by hand."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from contextgraft.report.data.labels import model_names, reference_titles, target_titles
from contextgraft.report.data.samples import SampleDatabase, read_samples
from contextgraft.report.statistics.cells import score_group
from contextgraft.report.statistics.study_table import ModelRow, StudyTable, TargetResult, build_study_table
from contextgraft.report.statistics.verdict import VerdictOutcome
from contextgraft.report.tables.wording import length_in_words


def table_of(samples: SampleDatabase, context: int | None = None) -> StudyTable:
    groups = [score_group(row) for row in samples.rows("score_groups")]
    return build_study_table(groups, model_names(samples.rows("labels")), context)


def study_of(*results: Path) -> StudyTable:
    return table_of(read_samples(results))


@pytest.fixture(scope="module")
def samples(results: Path) -> SampleDatabase:
    return read_samples([results])


@pytest.fixture(scope="module")
def study(samples: SampleDatabase) -> StudyTable:
    return table_of(samples)


@pytest.fixture(scope="module")
def style(study: StudyTable) -> TargetResult:
    return next(target for target in study.targets if target.name == "style")


def by_label(target: TargetResult) -> dict[str, ModelRow]:
    return {row.label: row for row in target.rows}


def test_rows_stand_in_the_order_of_the_table(study: StudyTable, style: TargetResult) -> None:
    assert [row.label for row in study.references] == ["base", "donors (2)"]
    assert [target.name for target in study.targets] == ["facts", "style", "sure"]
    grafts = ["graft r1", "graft r2", "graft r4", "graft r8", "graft r16"]
    assert [row.label for row in style.rows] == ["alone", "theta only", *grafts]


def test_columns_are_the_shortest_and_the_longest_length(study: StudyTable) -> None:
    assert (study.context, study.short, study.longest) == (None, 128, 1024)


def test_the_first_column_is_the_bases_context_where_it_was_evaluated(
    samples: SampleDatabase,
) -> None:
    assert table_of(samples, context=1024).short == 1024
    beyond = table_of(samples, context=4096)
    assert (beyond.short, beyond.context) == (128, 4096)


def test_cells_count_right_answers(style: TargetResult) -> None:
    row = by_label(style)["graft r8"]
    assert (row.long.proportion.hits, row.long.proportion.n) == (97 + 96, 200)
    assert (row.short.proportion.hits, row.short.proportion.n) == (198, 200)
    assert (row.skill.proportion.hits, row.skill.proportion.n) == (2 * 198, 400)
    assert row.skill_difference is not None
    assert row.skill_difference.points == pytest.approx(0)


def test_donors_are_counted_separately(style: TargetResult) -> None:
    cell = by_label(style)["graft r8"].long
    assert [(donor, proportion.hits) for donor, proportion in cell.by_donor] == [
        ("digest-donor-s1", 97),
        ("digest-donor-s2", 96),
    ]
    assert cell.spread == pytest.approx((0.96, 0.97))


def test_theta_only_is_counted_once_for_all_donors(style: TargetResult) -> None:
    theta = by_label(style)["theta only"]
    assert (theta.long.proportion.hits, theta.long.proportion.n) == (44, 100)
    assert theta.long.spread is None


def test_verdicts_of_the_three(study: StudyTable) -> None:
    verdicts = {target.name: (target.verdict.outcome, target.verdict.rank) for target in study.targets}
    assert verdicts == {
        "style": (VerdictOutcome.BOTH, 8),
        "sure": (VerdictOutcome.NEITHER, 16),
        "facts": (VerdictOutcome.CONTEXT_ONLY, 4),
    }


def test_rows_that_were_never_evaluated_are_listed_with_the_reason(
    tmp_path: Path, synthetic: SimpleNamespace
) -> None:
    synthetic.write(
        tmp_path / "a.parquet", list(synthetic.needle(synthetic.graft("style", 8), "n", 1024, 100))
    )
    (target,) = study_of(tmp_path).targets
    assert target.alone.long.proportion.unscored_reason == "not evaluated"
    assert target.theta.skill.proportion.unscored_reason == "not evaluated"
    assert target.name == "style"
    assert target.verdict.outcome is VerdictOutcome.SKILL_UNKNOWN


def test_another_scale_is_a_row_but_no_verdict(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    half, whole = synthetic.graft("style", 8, scale=0.5), synthetic.graft("style", 8)
    rows = [*synthetic.needle(half, "n", 1024, 100), *synthetic.needle(whole, "n", 1024, 10)]
    synthetic.write(tmp_path / "a.parquet", rows)
    (target,) = study_of(tmp_path).targets
    assert [row.label for row in target.rows[2:]] == ["graft r8 × 0.5", "graft r8"]
    assert target.verdict.outcome is VerdictOutcome.NEITHER


def test_two_needle_conditions_are_two_blocks_with_their_own_titles(
    tmp_path: Path, synthetic: SimpleNamespace
) -> None:
    model = synthetic.graft("style", 8)
    rows = [row for count in (0, 3) for row in synthetic.needle(model, "n", 1024, 50, distractors=count)]
    synthetic.write(tmp_path / "a.parquet", rows)
    titles = [title for title, _ in target_titles(study_of(tmp_path))]
    assert titles == ["style (n, no distractors)", "style (n, 3 distractors)"]


def test_equal_names_are_distinguished_by_digest(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = [
        row
        for name in ("one", "two")
        for row in synthetic.needle(synthetic.Model(name), "n", 128, 50, model="same")
    ]
    synthetic.write(tmp_path / "a.parquet", rows)
    titles = [title for title, _ in reference_titles(study_of(tmp_path).others)]
    assert titles == ["same (n, 3 distractors) digest-one", "same (n, 3 distractors) digest-two"]


def test_labels_that_do_not_name_the_role_get_it(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = [
        *synthetic.needle(synthetic.Model("base"), "n", 128, 50, model="SmolLM2"),
        *synthetic.needle(synthetic.Model("donor-s1"), "n", 128, 50),
        *synthetic.needle(synthetic.graft("style", 8), "n", 128, 50),
    ]
    synthetic.write(tmp_path / "a.parquet", rows)
    assert [row.label for row in study_of(tmp_path).references] == ["base SmolLM2", "donor-s1"]


def test_models_without_grafts_are_shown_by_themselves(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    synthetic.write(
        tmp_path / "a.parquet", list(synthetic.skill(synthetic.Model("lonely"), "chess", 7, n=10))
    )
    study = study_of(tmp_path)
    assert study.targets == ()
    assert [(row.label, row.skill.proportion.hits) for row in study.others] == [("lonely", 7)]


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (None, "2,048 tokens"),
        (2048, "2,048 tokens (the base's context)"),
        (256, "2,048 tokens (8× the base's context)"),
        (8192, "2,048 tokens (within the base's own 8,192)"),
    ],
)
def test_a_length_is_never_called_longer_than_it_is(context: int | None, expected: str) -> None:
    assert length_in_words(2048, context) == expected
