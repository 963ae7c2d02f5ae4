"""The matrix: gains over the fine-tune alone, the Pareto front, the marks."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from contextgraft.report.data.samples import read_samples
from contextgraft.report.statistics.rank_matrix import (
    NEAREST,
    RECOMMENDED,
    THETA,
    matrix_ranks,
    pareto_front,
    rank_matrix,
)
from contextgraft.report.statistics.study_table import StudyTable
from contextgraft.report.study import build_study


def study_of(folder: Path) -> StudyTable:
    return build_study(read_samples([folder]))


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ({1: (10.0, 0.0), 2: (20.0, 0.0), 4: (20.0, 0.0)}, {1, 2}),
        ({1: (10.0, -1.0), 2: (5.0, 0.0), 4: (4.0, -2.0)}, {1, 2}),
        ({8: (0.0, 0.0)}, {8}),
        ({}, set()),
    ],
)
def test_the_front_is_what_no_smaller_rank_equals(
    points: dict[int, tuple[float, float]], expected: set[int]
) -> None:
    assert pareto_front(points) == expected


def test_gains_are_above_the_fine_tune_alone(results: Path) -> None:
    lines = {line.title: line for line in rank_matrix(study_of(results))}
    assert matrix_ranks(list(lines.values())) == [THETA, 1, 2, 4, 8, 16]
    cell = lines["style"].cells[8]
    assert cell.gained is not None
    assert cell.kept is not None
    assert (cell.gained.points, cell.kept.points) == pytest.approx((96.5, 0))
    assert cell.description.startswith("context +96.5 points [+89.7, +98.7], 96.5 % [91, 99], n=200")
    assert "skill 0.0 points [−2.1, +2.1], n=200 prompts" in cell.description
    assert cell.description.endswith("recommended")
    theta = lines["style"].cells[THETA].gained
    assert theta is not None
    assert theta.points == pytest.approx(44)


def test_the_gain_has_the_interval_of_pairs(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    models = {80: synthetic.graft("style", 8), 60: synthetic.Model("style")}
    rows = [row for hits, model in models.items() for row in synthetic.needle(model, "n", 1024, hits)]
    synthetic.write(tmp_path / "a.parquet", rows)
    (line,) = rank_matrix(study_of(tmp_path))
    gained = line.cells[8].gained
    # Newcombe 1998, method 10, with Wilson's intervals of scipy: 60 prompts found by both, 20 by the graft
    # alone, 20 by none. For independent samples the interval would be [7.3, 31.9].
    assert gained is not None
    assert gained.method == "Newcombe for pairs"
    assert (gained.points, gained.low, gained.high) == pytest.approx((20, 11.8435, 27.9870), abs=1e-3)


def test_a_rank_that_only_fails_least_is_not_recommended(results: Path) -> None:
    marks = {
        line.title: {rank: cell.mark for rank, cell in line.cells.items() if cell.mark}
        for line in rank_matrix(study_of(results))
    }
    assert marks == {"style": {8: RECOMMENDED}, "sure": {16: NEAREST}, "facts": {4: NEAREST}}


def test_what_was_not_measured_says_why(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    lost = synthetic.unscored(synthetic.needle(synthetic.graft("style", 8), "n", 1024, 0), "failed", "memory")
    rows = [*lost, *synthetic.needle(synthetic.Model("style"), "n", 1024, 3)]
    synthetic.write(tmp_path / "a.parquet", rows)
    (line,) = rank_matrix(study_of(tmp_path))
    assert line.cells[8].missing == "100 failed: memory"
    assert line.cells[8].description == "context 100 failed: memory"
    assert line.cells[THETA].missing == "not evaluated"


def test_the_larger_condition_is_judged_and_the_smaller_stands_aside(
    tmp_path: Path, synthetic: SimpleNamespace
) -> None:
    model = synthetic.graft("style", 8)
    rows = [
        *synthetic.needle(model, "n", 1024, 100),
        *synthetic.needle(model, "n", 1024, 0, each=4, haystack="noise"),
        *synthetic.needle(model, "n", 4096, 0, each=30, kind="chain", depth=None),
    ]
    synthetic.write(tmp_path / "a.parquet", rows)
    study = study_of(tmp_path)
    (target,) = study.targets
    assert target.condition is not None
    assert (study.longest, target.condition.haystack, target.condition.kind) == (1024, "", "single")
    assert target.grafts[0].long.proportion.hits == 100
