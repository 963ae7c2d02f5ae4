"""Skills paired by sample: counted by hand, from samples to the interval."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from contextgraft.report.data.samples import read_samples
from contextgraft.report.statistics.cells import ModelKey
from contextgraft.report.statistics.paired import (
    UNPAIRED,
    PairCounts,
    pairs_by_model,
    pool_pairs,
    skill_pairs,
)

ROW = ModelKey("graft", "digest-style", 8)


def pairs_of(folder: Path) -> PairCounts:
    return pairs_by_model(skill_pairs(row) for row in read_samples([folder]).rows("pairs"))[ROW]


def test_prompts_that_both_answered_are_paired(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    # alone: 0-6 right of 10; graft: 4-9 right of 12, whose last two the fine-tune did not answer
    graft = synthetic.graft("style", 8)
    rows = [*synthetic.skill(synthetic.Model("style"), "s", 7, n=10)]
    rows += [
        {**row, "score": float(4 <= row["sample_index"] <= 9)} for row in synthetic.skill(graft, "s", 0, n=12)
    ]
    synthetic.write(tmp_path / "a.parquet", rows)
    pairs = pairs_of(tmp_path)
    assert pairs == PairCounts(n=10, both=3, gained=3, lost=4, neither=0, wins=3, losses=4, ties=3)
    assert pairs.difference is not None
    assert pairs.difference.points == pytest.approx(-10)
    assert pairs.p_value == pytest.approx(1.0)


def test_samples_without_a_score_are_not_paired(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = [*synthetic.skill(synthetic.Model("style"), "s", 7, n=10)]
    rows += synthetic.unscored(synthetic.skill(synthetic.graft("style", 8), "s", 0, n=10), "failed", "x")
    synthetic.write(tmp_path / "a.parquet", rows)
    assert read_samples([tmp_path]).rows("pairs") == []
    assert UNPAIRED.difference is None


def test_another_seed_or_metric_is_another_prompt(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    graft = synthetic.graft("style", 8)
    rows = [*synthetic.skill(synthetic.Model("style"), "s", 7, n=10)]
    rows += [
        *synthetic.skill(graft, "s", 7, n=10, seed=8),
        *synthetic.skill(graft, "s", 7, n=10, scoring="acc"),
    ]
    synthetic.write(tmp_path / "a.parquet", rows)
    assert read_samples([tmp_path]).rows("pairs") == []


def test_several_donors_answer_one_prompt(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    # one donor keeps all, the other loses all: n counts prompts, and each is half lost
    rows = [*synthetic.skill(synthetic.Model("style"), "s", 10, n=10)]
    rows += synthetic.skill(synthetic.graft("style", 8, "donor-s1"), "s", 10, n=10)
    rows += synthetic.skill(synthetic.graft("style", 8, "donor-s2"), "s", 0, n=10)
    synthetic.write(tmp_path / "a.parquet", rows)
    pairs = pairs_of(tmp_path)
    assert pairs == PairCounts(n=10, both=5, gained=0, lost=5, neither=0, wins=0, losses=10, ties=10)
    assert pairs.p_value is None


def test_a_task_with_two_metrics_counts_once(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = []
    for scoring, hits in (("acc", 6), ("acc_norm", 1)):
        for model in (synthetic.Model("style"), synthetic.graft("style", 8)):
            rows += synthetic.skill(model, "s", hits, n=10, scoring=scoring)
    synthetic.write(tmp_path / "a.parquet", rows)
    assert pairs_of(tmp_path) == PairCounts(n=10, both=6, neither=4, ties=10)


def test_answers_partly_right_make_fractions(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = [*synthetic.skill(synthetic.Model("style"), "s", 4, n=4)]
    rows += synthetic.skill(synthetic.graft("style", 8), "s", 4, n=4, score=0.5)
    synthetic.write(tmp_path / "a.parquet", rows)
    pairs = pairs_of(tmp_path)
    assert (pairs.both, pairs.gained, pairs.lost, pairs.neither) == pytest.approx((2, 0, 2, 0))
    assert pairs.difference is not None
    assert pairs.difference.points == pytest.approx(-50)


def test_tasks_are_pooled() -> None:
    one, two = PairCounts(n=3, both=2, lost=1, losses=1, ties=2), PairCounts(n=2, gained=2, wins=2)
    assert pool_pairs([one, two]) == PairCounts(n=5, both=2, gained=2, lost=1, wins=2, losses=1, ties=2)


def test_the_same_index_in_another_file_is_another_prompt(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = [*synthetic.skill(synthetic.Model("style"), "s", 10, n=10)]
    rows += [{**row, "recipe": "{}"} for row in synthetic.skill(synthetic.graft("style", 8), "s", 10, n=10)]
    synthetic.write(tmp_path / "style.parquet", rows)
    assert not list(read_samples([tmp_path]).rows("pairs"))
