"""The recommended rank of a fine-tune: the page and the file for `merge --recommended` agree."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contextgraft.report.data.samples import read_samples
from contextgraft.report.recommendation import recommend
from contextgraft.report.statistics.advice import Advice
from contextgraft.report.statistics.weights import WeightRecords
from contextgraft.report.study import build_study
from contextgraft.report.tables.overview import OverviewRow, overview

Rows = list[dict[str, Any]]


def rows_of(
    synthetic: SimpleNamespace,
    hits: dict[int, int],
    *,
    skills: dict[int, int] | None = None,
    alone: int = 0,
    theta: int = 0,
    task: str = "n",
    donors: tuple[str, ...] = ("donor-s1",),
) -> Rows:
    """Needles found of 100 and answers right of 200, by rank; the fine-tune alone has the whole skill."""

    def models() -> Iterator[tuple[Any, int, int | None]]:
        yield synthetic.Model("tune"), alone, 200
        for donor in donors:
            yield synthetic.graft("tune", 1, donor, scale=0.0), theta, 200
            for rank, found in hits.items():
                yield synthetic.graft("tune", rank, donor), found, (skills or {}).get(rank)

    rows: Rows = []
    for model, found, right in models():
        rows += synthetic.needle(model, task, 1024, found)
        rows += synthetic.skill(model, "s", right) if skills is not None and right is not None else []
    return rows


def decided(folder: Path, synthetic: SimpleNamespace, rows: Rows) -> tuple[dict[str, Any], list[OverviewRow]]:
    """The recommendation and the overview of the same samples."""
    file = synthetic.write(folder / "tune.parquet", rows)
    return recommend([file]), overview(build_study(read_samples([file])), WeightRecords())


def test_without_a_skill_the_smallest_rank_with_the_context_is_recommended(
    tmp_path: Path, synthetic: SimpleNamespace
) -> None:
    content, (row,) = decided(tmp_path, synthetic, rows_of(synthetic, {2: 90, 4: 96, 8: 100}))
    assert (content["rank"], content["needed"], content["skill_measured"]) == (4, True, False)
    assert content["reason"] is None
    assert (row.advice, row.rank, row.strength.text) == (Advice.USE, 4, "not measured")


def test_without_a_skill_the_rank_has_the_context_under_every_condition(
    tmp_path: Path, synthetic: SimpleNamespace
) -> None:
    easy = rows_of(synthetic, {2: 90, 4: 96, 8: 100})
    hard = rows_of(synthetic, {2: 50, 4: 80, 8: 95}, task="hard")
    content, rows = decided(tmp_path, synthetic, [*easy, *hard])
    assert (content["rank"], content["skill_measured"], len(content["verdicts"])) == (8, False, 2)
    assert [(row.advice, row.rank) for row in rows] == [(Advice.USE, 8), (Advice.USE, 8)]
    assert [row.after and row.after.proportion.hits for row in rows] in ([100, 95], [95, 100])


def test_a_measured_skill_decides(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    both = rows_of(synthetic, {4: 96, 8: 100}, skills={4: 150, 8: 199})
    content, (row,) = decided(tmp_path, synthetic, both)
    assert (content["rank"], content["skill_measured"], row.rank) == (8, True, 8)
    lost, (row,) = decided(tmp_path, synthetic, rows_of(synthetic, {4: 96, 8: 100}, skills={4: 150, 8: 160}))
    assert (lost["rank"], lost["needed"], row.advice) == (None, True, Advice.NONE)
    assert lost["reason"] == "n: context only"
    mixed, _ = decided(tmp_path, synthetic, rows_of(synthetic, {4: 96, 8: 100}, skills={4: 150}))
    assert mixed["rank"] is None


@pytest.mark.parametrize(("alone", "theta", "way"), [(97, 0, "alone"), (0, 95, "theta only")])
def test_an_adapter_that_is_not_needed_is_not_recommended(
    tmp_path: Path, synthetic: SimpleNamespace, alone: int, theta: int, way: str
) -> None:
    rows = rows_of(synthetic, {4: 100}, skills={4: 200}, alone=alone, theta=theta)
    content, (row,) = decided(tmp_path, synthetic, rows)
    assert (content["rank"], content["needed"]) == (None, False)
    assert content["reason"] == f"no adapter is needed: the long context works without one ({way})"
    assert (row.advice, row.command) == (Advice.NOT_NEEDED, "")


def test_an_adapter_that_one_condition_needs_is_needed(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = [
        *rows_of(synthetic, {4: 100, 8: 100}, theta=99),
        *rows_of(synthetic, {4: 90, 8: 100}, theta=10, task="hard"),
    ]
    content, overview_rows = decided(tmp_path, synthetic, rows)
    assert (content["rank"], content["needed"]) == (8, True)
    assert {(row.advice, row.rank) for row in overview_rows} == {(Advice.USE, 8)}


def test_theta_only_that_loses_the_skill_does_not_replace_an_adapter(
    tmp_path: Path, synthetic: SimpleNamespace
) -> None:
    theta = synthetic.graft("tune", 1, scale=0.0)
    kept = rows_of(synthetic, {4: 100}, skills={4: 200}, theta=100)
    rows = [row for row in kept if not (row["suite"] == "skill" and row["model"] == theta.name)]
    rows += synthetic.skill(theta, "s", 100)
    content, (row,) = decided(tmp_path, synthetic, rows)
    assert (content["rank"], content["needed"], row.advice) == (4, True, Advice.USE)


def test_a_recommendation_names_the_fine_tune_and_the_adapters_that_were_evaluated(
    tmp_path: Path, synthetic: SimpleNamespace
) -> None:
    rows = rows_of(synthetic, {4: 96, 8: 100}, donors=("donor-s1", "donor-s2"))
    rows += synthetic.needle(synthetic.graft("tune", 8, "other", scale=2.0), "n", 1024, 100)
    content, _ = decided(tmp_path, synthetic, rows)
    assert content["target"] == "digest-tune"
    assert content["adapters"] == {
        str(rank): [f"digest-adapter-donor-s{seed}-r{rank}" for seed in (1, 2)] for rank in (4, 8)
    }


def test_a_study_without_needles_says_so(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = [row for row in rows_of(synthetic, {4: 0}, skills={4: 200}) if row["suite"] == "skill"]
    content, (row,) = decided(tmp_path, synthetic, rows)
    assert (content["rank"], content["needed"], row.advice) == (None, None, Advice.NONE)
    assert content["reason"] == "no needles were evaluated, without which no rank can be judged"


def test_a_fine_tune_without_grafts_says_so(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    content, _ = decided(tmp_path, synthetic, list(synthetic.needle(synthetic.Model("tune"), "n", 1024, 3)))
    assert (content["rank"], content["target"], content["adapters"]) == (None, None, {})
    assert content["reason"] == "no graft was evaluated"
