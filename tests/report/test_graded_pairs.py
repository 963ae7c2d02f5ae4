"""Intervals of paired differences: graded scores, and prompts that share a text."""

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from contextgraft.formats.find_samples import PAGE
from contextgraft.report.build import build
from contextgraft.report.data.samples import read_samples
from contextgraft.report.statistics.clusters import bootstrap_difference
from contextgraft.report.statistics.paired import PairCounts, skill_pairs
from contextgraft.report.statistics.proportion import BOOTSTRAP, PAIRED
from contextgraft.stats import newcombe_paired, t_interval

N = 60


def graded_scores(seed: int) -> tuple[list[float], list[float]]:
    """Scores like F1 of a fine-tune and of its graft, which loses about two points of each answer."""
    generator = np.random.default_rng(seed)
    before = generator.uniform(0.3, 0.9, N)
    after = before - 0.02 + generator.normal(0, 0.03, N)
    return [*map(float, before)], [*map(float, after.clip(0, 1))]


def skills(synthetic: SimpleNamespace, model: Any, scores: Sequence[float]) -> list[dict[str, Any]]:
    rows = synthetic.skill(model, "s", 0, n=len(scores), scoring="f1")
    return [{**row, "score": score} for row, score in zip(rows, scores, strict=True)]


def test_graded_scores_have_the_bootstrap_and_right_or_wrong_ones_newcombe(
    tmp_path: Path, synthetic: SimpleNamespace
) -> None:
    before, after = graded_scores(0)
    alone, graft = synthetic.Model("style"), synthetic.graft("style", 8)
    graded = [*skills(synthetic, alone, before), *skills(synthetic, graft, after)]
    binary = [*synthetic.skill(alone, "b", 50, n=N), *synthetic.skill(graft, "b", 45, n=N)]
    synthetic.write(tmp_path / "a.parquet", graded + binary)
    pairs = {item.task: item.pairs for item in map(skill_pairs, read_samples([tmp_path]).rows("pairs"))}
    steps = 100 * (np.array(after) - np.array(before))
    points = pairs["s"].difference
    assert points is not None
    assert points.method == BOOTSTRAP
    # the reference: Student's t over the differences by prompt, which 60 of them make nearly normal
    expected = t_interval(float(steps.mean()), float(steps.std(ddof=1)), N)
    assert (points.low, points.high) == pytest.approx(expected, abs=0.15)
    low, high = newcombe_paired(*pairs["s"]._cells)
    assert 100 * (high - low) > 5 * (points.high - points.low)
    points = pairs["b"].difference
    assert points is not None
    low, high = newcombe_paired(45, 0, 5, 10)
    assert (points.low, points.high, points.method) == (100 * low, 100 * high, PAIRED)


def test_the_page_and_the_summary_name_the_method(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    before, after = graded_scores(1)
    rows = skills(synthetic, synthetic.Model("style"), before)
    rows += skills(synthetic, synthetic.graft("style", 8), after)
    synthetic.write(tmp_path / "a.parquet", rows)
    report = build([tmp_path], [], "t", None)
    found = report.summary["fine_tunes"]["style"]["rows"]["graft r8"]["skill_points"]
    assert found["interval"] == "bootstrap"
    assert "] bootstrap</span>" in report.texts[PAGE]
    header, line = next(
        text for name, text in report.texts.items() if name.endswith("rank.csv")
    ).splitlines()[::2]
    columns = dict(zip(header.split(","), line.split(","), strict=True))
    assert columns["skill_difference_interval"] == "bootstrap"
    assert float(columns["skill_difference_low"]) == pytest.approx(found["low"], abs=1e-5)


@pytest.mark.parametrize("scores", [[0.5] * 18 + [0.6], [0.5] * 40, [0.5] * 99 + [0.51]])
def test_few_prompts_and_equal_differences_keep_the_wider_interval(
    tmp_path: Path, synthetic: SimpleNamespace, scores: list[float]
) -> None:
    rows = skills(synthetic, synthetic.Model("style"), [0.5] * len(scores))
    rows += skills(synthetic, synthetic.graft("style", 8), scores)
    synthetic.write(tmp_path / "a.parquet", rows)
    (item,) = map(skill_pairs, read_samples([tmp_path]).rows("pairs"))
    points = item.pairs.difference
    assert points is not None
    assert points.method == PAIRED
    assert points.high - points.low > 20


def test_rounding_errors_are_no_differences() -> None:
    # the mean of three donors' equal scores is not always that score
    texts = tuple((1.0, step) for step in (0.0, 1.1e-16, -1.1e-16, 5.6e-17) * 15)
    pairs = PairCounts(n=60, both=24, gained=12, lost=12, neither=12, graded=True, texts=texts)
    assert pairs.difference is not None
    assert pairs.difference.method == PAIRED
    assert bootstrap_difference(texts, [(1.0, 0.0)] * 60) is None


def test_prompts_of_one_text_count_as_one() -> None:
    # of 40 texts with five prompts, ten are gained whole: the standard error is that of 40 draws
    texts = ((5.0, 5.0),) * 10 + ((5.0, 0.0),) * 30
    pairs = PairCounts(n=200, gained=50, neither=150, wins=50, ties=150, texts=texts)
    shared, single = pairs.by_text, pairs.difference
    assert shared is not None
    assert single is not None
    half = 196 * sqrt(0.25 * 0.75 / 40)
    assert (shared.points, shared.low, shared.high) == pytest.approx((25, 25 - half, 25 + half), abs=2)
    assert single.method == PAIRED
    assert shared.high - shared.low > 2 * (single.high - single.low)
    apart = PairCounts(n=2, gained=1, neither=1, texts=((1.0, 1.0), (1.0, 0.0)))
    assert apart.by_text is None


def test_what_is_common_to_both_sides_is_not_in_the_interval() -> None:
    # every second text is twice as hard for both sides: only the step between them counts
    first = [(4, 4.0 if text % 2 else 2.0) for text in range(40)]
    second = [(4, hits - (text % 4 == 0)) for text, (_, hits) in enumerate(first)]
    pair = bootstrap_difference(first, second)
    assert pair is not None
    half = 1.96 * sqrt(0.25 * 0.75 / 40) / 4
    assert pair == pytest.approx((1 / 16 - half, 1 / 16 + half), abs=0.01)


@pytest.mark.parametrize("steps", [[], [(5, 3.0)], [(5, 0.0)] * 9, [(5, 1.0), (10, 2.0)]])
def test_texts_that_differ_by_the_same_say_nothing(steps: list[tuple[int, float]]) -> None:
    assert bootstrap_difference(steps, [(n, 0.0) for n, _ in steps]) is None


def test_what_a_graft_adds_has_an_interval_over_texts(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    theta, graft = synthetic.graft("style", 1, scale=0.0), synthetic.graft("style", 8)
    rows: list[dict[str, Any]] = []
    for model, hits in ((synthetic.Model("style"), 0), (theta, 50), (graft, 150)):
        own = synthetic.needle(model, "n", 1024, hits, each=40)
        rows += [{**row, "document": row["sample_index"]} for row in own]
    synthetic.write(tmp_path / "a.parquet", rows)
    report = build([tmp_path], [], "t", None)
    found = report.summary["fine_tunes"]["style"]["over_controls"]["theta only"]["needles"]
    # of 40 texts 20 are gained whole
    half = 196 * sqrt(0.25 / 40)
    assert found["texts"] == pytest.approx({"n": 40, "low": 50 - half, "high": 50 + half}, abs=2.6)
    assert found["texts"]["high"] - found["texts"]["low"] > 1.5 * (found["high"] - found["low"])
    page = report.texts[PAGE]
    low, high = (f"+{found['texts'][end]:.1f}" for end in ("low", "high"))
    assert (
        f"by text [{low}, {high}]"
        in page.partition('<th scope="row">theta only</th>')[2].partition("</tr>")[0]
    )
    assert any(f", by text [{low}, {high}] over theta only" in line for line in report.lines)
    assert ", by text [+" in page.split('<section id="matrix"')[1]  # graft against alone
