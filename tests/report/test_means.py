"""Perplexity and divergence against figures computed by hand; they never count as right or wrong."""

from math import exp, sqrt
from pathlib import Path
from types import SimpleNamespace

import pytest

from contextgraft.report.build import measure
from contextgraft.report.data.samples import read_samples
from contextgraft.report.statistics.cells import ModelKey
from contextgraft.report.statistics.means import Measurements

ALONE = ModelKey("other", "digest-style")
T_3 = 3.182446  # Student's t for three degrees of freedom


def measurements_of(folder: Path) -> Measurements:
    return measure(read_samples([folder]))


def test_perplexity_by_position_and_over_the_window(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    # four documents at 2.0, 2.1, 2.2, 2.3 nats within 128, a nat more for each doubling
    synthetic.write(tmp_path / "a.parquet", list(synthetic.windows(synthetic.Model("style"), 2.0)))
    measurements = measurements_of(tmp_path)
    curve = measurements.curve(ALONE, "moby", 1024)
    assert [point.position for point in curve] == [128, 256, 512, 1024]
    assert [point.perplexity for point in curve] == pytest.approx([exp(2.15 + step) for step in range(4)])
    half = T_3 * sqrt(5 / 300) / sqrt(4)
    assert curve[0].interval == pytest.approx((exp(2.15 - half), exp(2.15 + half)), rel=1e-6)
    whole = measurements.whole(ALONE, "moby", 1024)
    assert whole is not None
    # tokens 64, 128, 256, 512
    mean = 2.15 + (128 + 2 * 256 + 3 * 512) / 960
    assert (whole.perplexity, whole.nats.n, whole.tokens) == pytest.approx((exp(mean), 4, 4 * 960))


def test_donors_of_one_document_are_one_document(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = [*synthetic.windows(synthetic.graft("style", 8, "donor-s1"), 1.0)]
    rows += synthetic.windows(synthetic.graft("style", 8, "donor-s2"), 3.0)
    synthetic.write(tmp_path / "a.parquet", rows)
    (first, *_) = measurements_of(tmp_path).curve(ModelKey("graft", "digest-style", 8), "moby", 1024)
    assert (first.nats.n, first.nats.mean) == pytest.approx((4, 2.15))


def test_one_document_has_no_interval(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = list(synthetic.windows(synthetic.Model("style"), 2.0, documents=1))
    synthetic.write(tmp_path / "a.parquet", rows)
    assert {item.interval for item in measurements_of(tmp_path).perplexities} == {None}


def test_divergence_is_a_mean_over_prompts(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    # 0.1, 0.11, ... 0.19 nats
    synthetic.write(tmp_path / "a.parquet", list(synthetic.compared(synthetic.Model("style"), 0.1)))
    (item,) = measurements_of(tmp_path).divergences
    assert (item.kl.mean, item.kl.n, item.tokens) == pytest.approx((0.145, 10, 1270))
    assert item.kl_interval == pytest.approx((0.12334, 0.16666), abs=1e-5)
    assert item.agreement.mean == pytest.approx(0.95)


def test_a_divergence_from_another_model_is_left_out_and_named(
    tmp_path: Path, synthetic: SimpleNamespace
) -> None:
    rows = list(synthetic.compared(synthetic.Model("style"), 0.1, n=6))
    rows += synthetic.compared(synthetic.graft("style", 8), 0.1, n=6, reference_digest="digest-base")
    rows += synthetic.compared(synthetic.graft("style", 4), 0.1, n=6)
    synthetic.write(tmp_path / "a.parquet", rows)
    measurements = measurements_of(tmp_path)
    assert [(item.model.role, item.model.rank) for item in measurements.divergences] == [
        ("alone", 0),
        ("graft", 4),
    ]
    (gap,) = measurements.unscored
    assert (gap.model.role, gap.text) == (
        "graft",
        "6 left out: measured from another model than the fine-tune",
    )


def test_a_divergence_is_never_below_zero(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = list(synthetic.compared(synthetic.Model("style"), 0.1))
    synthetic.write(
        tmp_path / "a.parquet", [{**row, "score": 1.0 * (row["sample_index"] == 0)} for row in rows]
    )
    (item,) = measurements_of(tmp_path).divergences
    assert item.kl_interval is not None
    assert item.kl_interval[0] == 0


def test_what_was_not_measured_says_why(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = synthetic.unscored(synthetic.windows(synthetic.Model("style"), 2.0), "failed", "out of memory")
    synthetic.write(tmp_path / "a.parquet", rows)
    measurements = measurements_of(tmp_path)
    assert measurements.missing_reason(ALONE, "perplexity", "moby", 1024) == "16 failed: out of memory"
    assert measurements.missing_reason(ALONE, "divergence", "moby") == "not evaluated"
    assert measurements.windows([ALONE]) == [("moby", 1024)]


def test_nats_are_never_right_or_wrong(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    model = synthetic.Model("style")
    rows = [*synthetic.windows(model, 0.5), *synthetic.compared(model, 0.5)]
    synthetic.write(tmp_path / "a.parquet", rows)
    assert read_samples([tmp_path]).rows("score_groups") == []


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_nats_that_are_not_finite_are_a_sample_without_a_score(
    tmp_path: Path, synthetic: SimpleNamespace, score: float
) -> None:
    rows = list(synthetic.windows(synthetic.Model("style"), 2.0))
    synthetic.write(tmp_path / "a.parquet", [{**rows[0], "score": score}])
    (sample,) = read_samples([tmp_path]).rows("sample_browser", per_cell=None)
    assert (sample["status"], sample["score"]) == ("failed", None)
    assert "invalid row: score" in sample["reason"]


def test_negative_nats_are_a_sample_without_a_score(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = list(synthetic.windows(synthetic.Model("style"), 2.0))
    synthetic.write(tmp_path / "a.parquet", [{**rows[0], "score": -1.0}])
    (sample,) = read_samples([tmp_path]).rows("sample_browser", per_cell=None)
    assert (sample["status"], sample["score"]) == ("failed", None)
    assert sample["reason"] == "invalid row: score -1.0"


@pytest.mark.parametrize(("score", "fits"), [(0.5, True), (1.5, False), (-0.1, False)])
def test_shares_may_be_fractions_between_0_and_1(
    tmp_path: Path, synthetic: SimpleNamespace, score: float, fits: bool
) -> None:
    rows = list(synthetic.skill(synthetic.Model("style"), "s", 1, n=1, score=score))
    synthetic.write(tmp_path / "a.parquet", rows)
    (group,) = read_samples([tmp_path]).rows("score_groups")
    assert (group["n"], group["failed"], group["hits"]) == ((1, 0, score) if fits else (0, 1, 0))
