"""A suite that the report does not know: shown in the page, the summary and the samples without new code."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contextgraft.formats.find_samples import PAGE
from contextgraft.report.build import Report, build, measure
from contextgraft.report.data.labels import model_names
from contextgraft.report.data.sample_browser import link
from contextgraft.report.data.samples import read_samples
from contextgraft.report.statistics.cells import score_group
from contextgraft.report.statistics.study_table import build_study_table
from contextgraft.report.tables.measurement_tables import other_suite_tables
from contextgraft.report.tables.table import ScoreTable


def made_up(
    synthetic: SimpleNamespace, model: object, scores: list[float], **changes: Any
) -> Iterator[dict[str, Any]]:
    """Samples of a suite called `letters`, one for each score."""
    rows = synthetic.skill(model, "count", 0, n=len(scores), length=2048, scoring="f1")
    for row, score in zip(rows, scores, strict=True):
        yield {**row, "suite": "letters", "score": score, **changes}


def study_samples(synthetic: SimpleNamespace) -> list[dict[str, Any]]:
    """A fine-tune with 1 + 3 x 0.5 of 10 points and its graft with all."""
    target, graft = synthetic.Model("style"), synthetic.graft("style", 8)
    rows = [*made_up(synthetic, target, [1.0, 0.5, 0.5, 0.5, *[0.0] * 6])]
    rows += made_up(synthetic, graft, [1.0] * 10)
    rows += synthetic.needle(target, "n", 128, 90)
    rows += synthetic.needle(graft, "n", 128, 90)
    return rows


def tables_of(folder: Path) -> list[ScoreTable]:
    samples = read_samples([folder])
    groups = [score_group(row) for row in samples.rows("score_groups")]
    study = build_study_table(groups, model_names(samples.rows("labels")))
    return other_suite_tables(study, measure(samples))["letters"]


def test_scores_are_shown_by_task_and_length_with_n_and_interval(
    tmp_path: Path, synthetic: SimpleNamespace
) -> None:
    synthetic.write(tmp_path / "a.parquet", study_samples(synthetic))
    (table,) = tables_of(tmp_path)
    assert (table.title, table.columns) == ("style", ("alone", "graft r8"))
    (section,) = table.sections
    assert section.title == "count, f1"
    (row,) = section.rows
    assert row.label == "2,048 tokens"
    # Wilson's interval of 2.5 of 10 and of 10 of 10
    assert [(cell.value, cell.detail) for cell in row.cells] == [
        ("25 %", "[8, 56] n=10"),
        ("100 %", "[72, 100] n=10"),
    ]
    assert row.cells[0].link == link(tune="style", row="alone", suite="letters", task="count", length=2048)


def test_scores_beyond_0_and_1_are_means_with_a_t_interval(
    tmp_path: Path, synthetic: SimpleNamespace
) -> None:
    rows = made_up(synthetic, synthetic.Model("style"), [1.0, 2.0, 3.0])
    synthetic.write(tmp_path / "a.parquet", list(rows))
    (table,) = tables_of(tmp_path)
    (cell,) = table.sections[0].rows[0].cells
    # 2 +- 4.302653 * 1 / sqrt(3)
    assert (cell.value, cell.detail, cell.fill) == ("2", "[-0.484, 4.48] n=3", "")


def test_nats_are_no_share_even_if_all_are_below_1(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    window = {"suite": "long_perplexity", "scoring": "longppl", "tokens": 5}
    rows = made_up(synthetic, synthetic.Model("style"), [0.2, 0.4], **window)
    synthetic.write(tmp_path / "a.parquet", list(rows))
    (score,) = build([tmp_path], [], "t", None).summary["other_suites"]["long_perplexity"]
    # 0.3 +- 12.7062 * 0.1 by Student's t with one degree of freedom
    assert (score["score"], score["low"], score["high"]) == pytest.approx((0.3, -0.97062, 1.57062), abs=1e-4)


def test_unscored_samples_say_why(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = synthetic.unscored(made_up(synthetic, synthetic.Model("style"), [0.0] * 4), "failed", "no memory")
    synthetic.write(tmp_path / "a.parquet", rows)
    (table,) = tables_of(tmp_path)
    (cell,) = table.sections[0].rows[0].cells
    assert (cell.value, cell.missing) == ("", "4 failed: no memory")


@pytest.fixture(scope="module")
def letters_report(tmp_path_factory: pytest.TempPathFactory, synthetic: SimpleNamespace) -> Report:
    folder = tmp_path_factory.mktemp("letters")
    synthetic.write(folder / "a.parquet", study_samples(synthetic))
    return build([folder], [], "t", None)


def test_the_page_has_the_suite_and_its_samples(letters_report: Report) -> None:
    page = letters_report.texts[PAGE]
    assert '<a href="#other-suites">Other suites</a>' in page
    section = page.split('<section id="other-suites"')[1].split("</section>")[0]
    assert "<h3>letters</h3>" in section
    assert "25 %" in section
    assert "[8, 56] n=10" in section
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert "letters" in data["texts"]


def test_the_summary_has_the_numbers(letters_report: Report) -> None:
    alone, graft = letters_report.summary["other_suites"]["letters"]
    assert (graft["family"], graft["model"], graft["score"], graft["n"]) == ("style", "graft r8", 1.0, 10)
    assert (alone["task"], alone["scoring"], alone["length"]) == ("count", "f1", 2048)
    assert (alone["score"], alone["low"], alone["high"]) == pytest.approx((0.25, 0.0809, 0.5578), abs=1e-4)


def test_a_study_without_such_suites_does_not_mention_them(
    tmp_path: Path, synthetic: SimpleNamespace
) -> None:
    synthetic.write(tmp_path / "a.parquet", list(synthetic.skill(synthetic.Model("style"), "s", 5, n=10)))
    report = build([tmp_path], [], "t", None)
    assert "other-suites" not in report.texts[PAGE].split("<body>")[1]
    assert "other_suites" not in report.summary


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_samples_without_one(
    tmp_path: Path, synthetic: SimpleNamespace, score: float
) -> None:
    rows = list(made_up(synthetic, synthetic.Model("style"), [score]))
    synthetic.write(tmp_path / "a.parquet", rows)
    samples = read_samples([tmp_path]).rows("sample_browser", per_cell=None)
    assert {(sample["status"], sample["score"]) for sample in samples} == {("failed", None)}
    assert all("invalid row: score" in sample["reason"] for sample in samples)
