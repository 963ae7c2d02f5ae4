"""A study of very many models, lengths or tasks: the work grows with the rows, and tables and charts end."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from contextgraft.report.build import build
from contextgraft.report.charts import heatmap
from contextgraft.report.charts.figures import MOST_LINES, draw
from contextgraft.report.statistics.cells import ModelKey, NeedleCondition, ScoreGroup
from contextgraft.report.statistics.means import Measurements, SuiteScore, Unscored
from contextgraft.report.statistics.proportion import Proportion
from contextgraft.report.statistics.rank_matrix import rank_matrix
from contextgraft.report.statistics.study_table import StudyTable, build_study_table
from contextgraft.report.statistics.weights import WeightRecords
from contextgraft.report.tables import measurement_tables, score_tables

ONE = Proportion(n=1, hits=1)


def needle(model: ModelKey, length: int, depth: float = 50.0) -> ScoreGroup:
    return ScoreGroup(model, None, "needle", "t", 0, length, depth, ONE)


def study_of(count: int) -> StudyTable:
    """So many fine-tunes, each with a graft and a skill task of its own."""
    models = [ModelKey(role, f"d{index}", rank) for index in range(count) for role, rank in FAMILY]
    groups = [needle(model, length) for model in models for length in (64, 128)]
    groups += [ScoreGroup(model, None, "skill", f"task {model.name}", 0, None, None, ONE) for model in models]
    return build_study_table(groups, {model: f"name {model.name}" for model in models})


FAMILY = (("alone", 0), ("graft", 4))


def test_the_work_grows_with_the_number_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons of models, which a search through all groups for every model would square."""
    compared = [0]
    equal = ModelKey.__eq__

    def counted(self: ModelKey, other: object) -> bool:
        compared[0] += 1
        return equal(self, other)

    monkeypatch.setattr(ModelKey, "__eq__", counted)
    counts = []
    for size in (100, 200):
        compared[0] = 0
        study = study_of(size)
        models = [row.model for row in study.rows]
        measurements = Measurements(
            unscored=tuple(Unscored(model, "perplexity", "text", 64, "1 failed") for model in models),
            other_suites=tuple(SuiteScore(model, "mine", "t", "", None, True, ONE, 0.0) for model in models),
        )
        for tables in (score_tables.needle_tables, score_tables.skill_tables):
            tables(study)
        measurement_tables.perplexity_tables(study, measurements)
        measurement_tables.divergence_tables(study, measurements)
        measurement_tables.other_suite_tables(study, measurements)
        counts.append(compared[0])
    assert counts[1] < 3 * counts[0] + 1000, counts


def test_the_page_of_500_fine_tunes_has_at_most_15_mb(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    """By the bytes that a fine-tune adds, beyond the number of them that have charts."""
    sizes = {count: page_bytes(synthetic, tmp_path / str(count), count) for count in (25, 26)}
    each = sizes[26] - sizes[25]
    assert sizes[26] + 474 * each <= 15e6, sizes


def page_bytes(make: SimpleNamespace, folder: Path, count: int) -> int:
    """The bytes of the page of so many fine-tunes with two ranks, needles at two lengths, and a skill."""
    folder.mkdir()
    base, donor = make.Model("base"), make.Model("donor-s1")
    rows = [*make.needle(base, "n", 1024, 1), *make.needle(donor, "n", 1024, 100)]
    make.write(folder / "base.parquet", rows)
    for number in range(count):
        name = f"tune-{number}"
        grafts = [(make.graft(name, 4, scale=0.0), 20), (make.graft(name, 4), 60), (make.graft(name, 16), 90)]
        family = [(make.Model(name), 0), *grafts]
        rows = []
        for model, found in family:
            rows += [
                *make.needle(model, "n", 128, 5, each=1),
                *make.needle(model, "n", 1024, found // 20, each=1),
            ]
            rows += make.skill(model, "skill", 9, n=10)
        make.write(folder / f"{name}.parquet", rows)
    return len(build([folder], [], "t", None).texts["index.html"].encode())


def test_a_table_of_many_tasks_and_models_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contextgraft.report.tables.table.MOST_CELLS", 200)
    models = [ModelKey("other", f"d{index}") for index in range(40)]
    groups = [ScoreGroup(model, None, "skill", f"task {model.name}", 0, None, None, ONE) for model in models]
    study = build_study_table(groups, {model: model.name for model in models})
    (table,) = score_tables.skill_tables(study)
    rows = sum(len(section.rows) for section in table.sections)
    assert (rows, len(table.columns)) == (40, 5)
    assert table.note == "The first 5 of 40 columns."


def test_very_many_lengths_have_a_step_and_no_chart() -> None:
    model, condition = ModelKey("other", "d"), NeedleCondition("t", 0)
    groups = [needle(model, length) for length in range(1, 1001)]
    squares = heatmap.squares(groups, model, condition, {})
    assert heatmap.spec(squares)["width"]["step"] == 1
    many = [needle(model, length, depth) for length in range(1, 60) for depth in range(60)]
    study = build_study_table(many, {model: "m"})
    assert not draw(study, [], Measurements(), WeightRecords((), (), ())).all


def test_a_matrix_of_very_many_fine_tunes_is_not_drawn() -> None:
    study = study_of(MOST_LINES + 1)
    figures = draw(study, rank_matrix(study), Measurements(), WeightRecords((), (), ()))
    assert figures.matrix is None
    assert not figures.all
