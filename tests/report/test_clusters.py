"""Intervals over texts: against known cases, and from samples to the page."""

from math import sqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from contextgraft.formats.find_samples import PAGE
from contextgraft.report.build import build
from contextgraft.report.data.samples import read_samples
from contextgraft.report.statistics.clusters import bootstrap_share, texts_by_cell
from contextgraft.report.statistics.proportion import Proportion

TEXTS, DEPTHS = 40, 5


def needles(synthetic: SimpleNamespace, model: Any, hits: int, document: bool = True) -> list[dict[str, Any]]:
    """Texts with a needle at each of five depths: all five right in the first texts, none in the others."""
    rows = synthetic.needle(model, "n", 1024, hits, each=TEXTS)
    return [{**row, "document": row["sample_index"] if document else None} for row in rows]


def test_questions_that_agree_count_as_one() -> None:
    # 30 of 40 texts right in all five questions: the standard error is that of 40 draws, not of 200
    together = bootstrap_share([(DEPTHS, float(DEPTHS))] * 30 + [(DEPTHS, 0.0)] * 10)
    assert together is not None
    half = 1.96 * sqrt(0.75 * 0.25 / TEXTS)
    assert together == pytest.approx((0.75 - half, 0.75 + half), abs=0.02)
    single = Proportion(n=200, hits=150).interval
    assert together[1] - together[0] > 2 * (single[1] - single[0])


def test_questions_that_are_independent_have_the_usual_interval() -> None:
    generator = np.random.default_rng(0)
    drawn = generator.random((400, DEPTHS)) < 0.7
    apart = bootstrap_share([(DEPTHS, float(hits)) for hits in drawn.sum(axis=1)])
    assert apart == pytest.approx(Proportion(n=drawn.size, hits=int(drawn.sum())).interval, abs=0.005)


def test_texts_count_by_their_questions() -> None:
    # ten right texts of 9 questions, twenty wrong ones of 1: 90 of 110; unweighted texts have a third
    interval = bootstrap_share([(9, 9.0)] * 10 + [(1, 0.0)] * 20)
    assert interval is not None
    assert 0.6 < interval[0] < 90 / 110 < interval[1] < 0.95


@pytest.mark.parametrize("texts", [[], [(5, 3.0)], [(5, 5.0)] * 9, [(5, 2.0), (10, 4.0)]])
def test_texts_that_agree_say_nothing(texts: list[tuple[int, float]]) -> None:
    assert bootstrap_share(texts) is None


def test_page_and_summary_have_the_interval_and_the_number_of_texts(
    tmp_path: Path, synthetic: SimpleNamespace
) -> None:
    donors = [synthetic.graft("style", 8, donor) for donor in ("donor-s1", "donor-s2")]
    rows = [row for model in donors for row in needles(synthetic, model, 150)]
    rows += needles(synthetic, synthetic.Model("style"), 0)
    synthetic.write(tmp_path / "a.parquet", rows)
    report = build([tmp_path], [], "t", None)
    own = report.summary["fine_tunes"]["style"]["rows"]
    cell = own["graft r8"]["needle_longest"]
    assert (cell["n"], cell["texts"]["n"]) == (2 * TEXTS * DEPTHS, TEXTS)
    # both donors agree on every question: two answers are no more evidence than one
    one = bootstrap_share([(DEPTHS, float(DEPTHS))] * 30 + [(DEPTHS, 0.0)] * 10)
    assert one is not None
    assert (cell["texts"]["low"], cell["texts"]["high"]) == one
    assert own["alone"]["needle_longest"]["texts"] == {"n": TEXTS, "low": None, "high": None}
    page = report.texts[PAGE]
    assert f"by text [{100 * one[0]:.0f}, {100 * one[1]:.0f}], 40 texts" in page


def test_texts_of_one_question_have_no_second_interval(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    for name, rows in {
        "no-number": needles(synthetic, synthetic.Model("style"), 90, document=False),
        "one-depth": [row for row in needles(synthetic, synthetic.Model("style"), 90) if row["depth"] == 0],
    }.items():
        synthetic.write(tmp_path / name / "a.parquet", rows)
        assert texts_by_cell(read_samples([tmp_path / name]).rows("texts")) == {}
