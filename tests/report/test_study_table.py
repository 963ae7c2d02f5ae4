"""The table of the synthetic study against figures counted by hand."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from contextgraft.report.data.names import row_names
from contextgraft.report.data.samples import read
from contextgraft.report.data.titles import reference_titles, tune_titles
from contextgraft.report.statistics.cells import fact
from contextgraft.report.statistics.study_table import FineTune, Row, Study, build
from contextgraft.report.statistics.verdict import Outcome
from contextgraft.report.tables.wording import place


def study_of(*results: Path, context: int | None = None) -> Study:
    samples = read(results)
    return build([fact(row) for row in samples.rows("facts")], row_names(samples.rows("labels")), context)


@pytest.fixture(scope="module")
def study(results: Path) -> Study:
    return study_of(results)


@pytest.fixture(scope="module")
def style(study: Study) -> FineTune:
    return next(tune for tune in study.fine_tunes if tune.name == "style")


def by_label(tune: FineTune) -> dict[str, Row]:
    return {row.label: row for row in tune.rows}


def test_rows_stand_in_the_order_of_the_table(study: Study, style: FineTune) -> None:
    assert [row.label for row in study.references] == ["base", "donors (2)"]
    assert [tune.name for tune in study.fine_tunes] == ["facts", "style", "sure"]
    grafts = ["graft r1", "graft r2", "graft r4", "graft r8", "graft r16"]
    assert [row.label for row in style.rows] == ["alone", "theta only", *grafts]


def test_columns_are_the_shortest_and_the_longest_length(study: Study) -> None:
    assert (study.context, study.short, study.longest) == (None, 128, 1024)


def test_the_first_column_is_the_bases_context_where_it_was_asked(results: Path) -> None:
    assert study_of(results, context=1024).short == 1024
    assert study_of(results, context=4096).short == 128
    assert study_of(results, context=4096).context == 4096


def test_cells_count_right_answers(style: FineTune) -> None:
    row = by_label(style)["graft r8"]
    assert (row.long.tally.hits, row.long.tally.n) == (97 + 96, 200)
    assert (row.short.tally.hits, row.short.tally.n) == (198, 200)
    assert (row.skill.tally.hits, row.skill.tally.n) == (2 * 198, 400)
    assert row.step is not None
    assert row.step.points == pytest.approx(0)


def test_donors_are_told_apart(style: FineTune) -> None:
    cell = by_label(style)["graft r8"].long
    assert [(donor, tally.hits) for donor, tally in cell.by_donor] == [
        ("digest-donor-s1", 97),
        ("digest-donor-s2", 96),
    ]
    assert cell.spread == pytest.approx((0.96, 0.97))


def test_theta_only_is_counted_once_for_all_donors(style: FineTune) -> None:
    theta = by_label(style)["theta only"]
    assert (theta.long.tally.hits, theta.long.tally.n) == (44, 100)
    assert theta.long.spread is None


def test_verdicts_of_the_three(study: Study) -> None:
    told = {tune.name: (tune.verdict.outcome, tune.verdict.rank) for tune in study.fine_tunes}
    assert told == {
        "style": (Outcome.BOTH, 8),
        "sure": (Outcome.NEITHER, 16),
        "facts": (Outcome.CONTEXT_ONLY, 4),
    }


def test_rows_that_were_never_asked_are_there_and_say_so(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    synthetic.write(
        tmp_path / "a.parquet", list(synthetic.needle(synthetic.graft("style", 8), "n", 1024, 100))
    )
    (tune,) = study_of(tmp_path).fine_tunes
    assert tune.alone.long.tally.gap == "not asked"
    assert tune.theta.skill.tally.gap == "not asked"
    assert tune.name == "style"
    assert tune.verdict.outcome is Outcome.SKILL_UNKNOWN


def test_another_scale_is_a_row_but_no_verdict(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    half, whole = synthetic.graft("style", 8, scale=0.5), synthetic.graft("style", 8)
    rows = [*synthetic.needle(half, "n", 1024, 100), *synthetic.needle(whole, "n", 1024, 10)]
    synthetic.write(tmp_path / "a.parquet", rows)
    (tune,) = study_of(tmp_path).fine_tunes
    assert [row.label for row in tune.rows[2:]] == ["graft r8 × 0.5", "graft r8"]
    assert tune.verdict.outcome is Outcome.NEITHER


def test_two_needle_conditions_are_two_blocks_with_their_own_titles(
    tmp_path: Path, synthetic: SimpleNamespace
) -> None:
    model = synthetic.graft("style", 8)
    rows = [row for count in (0, 3) for row in synthetic.needle(model, "n", 1024, 50, distractors=count)]
    synthetic.write(tmp_path / "a.parquet", rows)
    titles = [title for title, _ in tune_titles(study_of(tmp_path))]
    assert titles == ["style (n, no distractors)", "style (n, 3 distractors)"]


def test_equal_names_are_told_apart_by_digest(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = [
        row
        for name in ("one", "two")
        for row in synthetic.needle(synthetic.Model(name), "n", 128, 50, model="same")
    ]
    synthetic.write(tmp_path / "a.parquet", rows)
    titles = [title for title, _ in reference_titles(study_of(tmp_path).others)]
    assert titles == ["same (n, 3 distractors) digest-one", "same (n, 3 distractors) digest-two"]


def test_labels_that_do_not_tell_the_role_get_it(tmp_path: Path, synthetic: SimpleNamespace) -> None:
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
    assert study.fine_tunes == ()
    assert [(row.label, row.skill.tally.hits) for row in study.others] == [("lonely", 7)]


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (None, "2,048 tokens"),
        (2048, "2,048 tokens (the base's context)"),
        (256, "2,048 tokens (8× the base's context)"),
        (8192, "2,048 tokens (within the base's own 8,192)"),
    ],
)
def test_a_length_is_never_told_longer_than_it_is(context: int | None, expected: str) -> None:
    assert place(2048, context) == expected
