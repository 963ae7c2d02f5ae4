"""The rank is chosen on some prompts and judged on others; the graft is compared with controls by prompt."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contextgraft.formats.samples import CHOOSE, REPORT, split_of
from contextgraft.report.build import build
from contextgraft.report.data.samples import read_samples
from contextgraft.report.recommendation import recommend
from contextgraft.report.statistics.advice import Advice, advise
from contextgraft.report.statistics.study_table import TargetResult
from contextgraft.report.statistics.verdict import Strength, VerdictOutcome, strength
from contextgraft.report.study import build_study
from contextgraft.report.tables.wording import sentence
from contextgraft.stats import newcombe_paired

LENGTH = 1024


def test_one_text_of_four_chooses() -> None:
    splits = [split_of({"suite": "needle", "sample_index": index}) for index in range(8)]
    assert splits == [CHOOSE, REPORT, REPORT, REPORT] * 2
    assert split_of({"suite": "perplexity", "sample_index": 0}) is None
    assert split_of({"suite": "refused"}) is None


def rows_of(
    synthetic: SimpleNamespace, model: Any, wrong: set[int], lost: set[int]
) -> Iterator[dict[str, Any]]:
    """Twenty texts with five prompts each, those of `wrong` not answered; 200 lines of a skill."""
    for row in synthetic.needle(model, "n", LENGTH, 100):
        right = row["sample_index"] not in wrong
        yield {**row, "score": float(right), "document": row["sample_index"], "split": split_of(row)}
    for row in synthetic.skill(model, "s", 200):
        yield {**row, "score": float(row["sample_index"] not in lost), "split": split_of(row)}


CHOOSING = set(range(0, 20, 4))
EVERY = set(range(20))


def study(
    synthetic: SimpleNamespace, folder: Path, grafts: dict[int, set[int]], controls: dict[str, set[int]]
) -> Path:
    """A fine-tune whose grafts, by rank, and controls miss the needles of some texts."""
    theta = synthetic.graft("tune", 1, scale=0.0)
    rows = [
        *rows_of(synthetic, synthetic.Model("tune"), EVERY, set()),
        *rows_of(synthetic, theta, EVERY, set()),
    ]
    for rank, wrong in grafts.items():
        rows += rows_of(synthetic, synthetic.graft("tune", rank), wrong, set())
    for name, wrong in controls.items():
        graft = synthetic.graft("tune", 1, scale=0.0)
        model = synthetic.Model(f"digest-{name}", {**graft.graft, "control": name})
        rows += rows_of(synthetic, model, wrong, {1, 2, 3})
    return synthetic.write(folder / "tune.parquet", rows)  # type: ignore[no-any-return]


def judged(path: Path) -> TargetResult:
    (target,) = build_study(read_samples([path])).targets
    return target


def test_a_rank_is_chosen_on_one_part_and_judged_on_the_other(
    synthetic: SimpleNamespace, tmp_path: Path
) -> None:
    path = study(synthetic, tmp_path, {2: CHOOSING, 4: set(), 8: set()}, {})
    target = judged(path)
    assert (target.verdict.rank, target.verdict.outcome) == (4, VerdictOutcome.BOTH)
    graft = target.verdict.graft
    assert graft is not None
    assert (graft.needle.proportion.n, graft.skill.proportion.n, graft.pairs.n) == (75, 150, 150)
    assert target.verdict.split_sizes == {
        "chosen_on": {"needles": 25, "skill": 50},
        "judged_on": {"needles": 75, "skill": 150},
    }
    assert (
        next(row for row in target.grafts if row.model.rank == 2).long.proportion.hits == 75
    )  # of all prompts
    content = recommend([path])
    assert (content["rank"], content["verdicts"][0]["chosen_on"]["needles"]) == (4, 25)
    assert "smallest rank for both with a margin, chosen on 25 other prompts: 4" in sentence(
        target.verdict, "1,024 tokens"
    )
    assert build([path], [], "t", None).summary["fine_tunes"]["tune"]["verdict"]["judged_on"]["skill"] == 150


def test_a_rank_that_passes_only_where_it_was_chosen_is_not_recommended(
    synthetic: SimpleNamespace, tmp_path: Path
) -> None:
    path = study(synthetic, tmp_path, {2: EVERY - CHOOSING, 4: set()}, {})
    target = judged(path)
    assert (target.verdict.rank, target.verdict.outcome) == (2, VerdictOutcome.NEITHER)
    assert (target.verdict.chosen, target.verdict.held) == (VerdictOutcome.BOTH, False)
    assert strength(target.verdict) is Strength.NOT_SHOWN
    assert advise([target]).advice is Advice.NONE
    content = recommend([path])
    assert content["rank"] is None
    assert content["reason"] == "n: context did not come at rank 2, which passed on other prompts"
    assert "the graft that passed on 25 other prompts, rank 2, reaches 0 %" in sentence(target.verdict, "x")


def test_too_few_texts_are_not_split(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    few = [
        row
        for model in (
            synthetic.Model("tune"),
            synthetic.graft("tune", 1, scale=0.0),
            synthetic.graft("tune", 4),
        )
        for row in rows_of(synthetic, model, set(), set())
        if row["sample_index"] == 0
    ]
    target = judged(synthetic.write(tmp_path / "few.parquet", few))
    assert target.verdict.chosen_on is None
    assert target.verdict.graft
    assert target.verdict.graft.needle.proportion.n == 5


def test_what_the_graft_adds_to_a_control_is_paired(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    missed = {1, 2, 4}  # of the prompts that judge: ten of 75
    target = judged(study(synthetic, tmp_path, {4: {1}}, {"yarn": missed}))
    theta, yarn = (
        next(item for item in target.verdict.comparisons if item.label == label)
        for label in ("theta only", "YaRN")
    )
    assert (yarn.needles.n, yarn.needles.both, yarn.needles.gained, yarn.needles.lost) == (75, 65, 5, 0)
    points = yarn.needles.difference
    assert points
    low, high = newcombe_paired(65, 5, 0, 5)
    assert (points.low, points.high) == pytest.approx((100 * low, 100 * high))
    assert (yarn.skill.gained, yarn.skill.n, theta.needles.gained) == (3, 150, 70)
    said = sentence(target.verdict, "1,024 tokens")
    assert "The graft on the same prompts, in points of the needles (and of the skill): " in said
    assert ") over theta only" in said
    assert "+6.7 [" in said
    assert "] (+2.0 [" in said
    assert ") over YaRN" in said


def test_the_page_has_a_table_of_what_the_graft_adds(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    path = study(synthetic, tmp_path, {4: {1}}, {"yarn": {1, 2, 4}})
    page = build([path], [], "t", None).texts["index.html"]
    table = page.partition('<table class="compared">')[2].partition("</table>")[0]
    rows = [" ".join(re.sub("<[^>]*>", " ", row).split()) for row in table.split("<tr>")]
    low, high = (100 * bound for bound in newcombe_paired(65, 5, 0, 5))
    assert [row for row in rows if row.startswith("YaRN +6.7")] == [
        row for row in rows if row.startswith(f"YaRN +6.7 [+{low:.1f}, +{high:.1f}]")
    ]
    assert sum(row.startswith("theta only +93.3") for row in rows) == 1
    assert "The graft on the same prompts" not in page


def test_another_strength_is_compared_with_the_graft(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    path = study(synthetic, tmp_path, {4: {1, 2}}, {})
    weaker = list(rows_of(synthetic, synthetic.graft("tune", 4, scale=0.8), set(), set()))
    synthetic.write(tmp_path / "scales" / "weaker.parquet", weaker)
    (target,) = build_study(read_samples([path, tmp_path / "scales"])).targets
    item = next(item for item in target.verdict.comparisons if item.label == "graft r4 × 0.8")
    assert (item.needles.gained, item.needles.lost) == (0, 10)
    assert "over graft r4 × 0.8" in sentence(target.verdict, "x")
