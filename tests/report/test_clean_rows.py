"""Rows that nobody expected: each costs one sample without a score; the page is made."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contextgraft.report.build import build
from contextgraft.report.charts.svg import render, slug
from contextgraft.report.data.samples import read_samples

ODD: dict[str, dict[str, Any]] = {
    "a depth that is no number": {"depth": math.nan},
    "an endless depth": {"depth": -math.inf},
    "a score that is no number": {"score": math.nan},
    "an agreement that is no number": {"agreement": math.nan},
    "a scale that is no number": {"adapter_scale": math.inf},
    "a huge depth": {"depth": 1e300},
    "no digest": {"model_digest": None},
    "no task": {"task": None},
    "no suite": {"suite": None},
    "no label": {"model": None},
    "no status": {"status": None},
}
TEXTS = ["a\x1bb", "a\0b", "a\u202eb", "a\ufffeb", "\U0001f600" * 50, "x" * 300, "\u6f22" * 300, "", ".."]


def study(synthetic: SimpleNamespace) -> list[dict[str, Any]]:
    grafted = (synthetic.graft("style", 4, scale=scale) for scale in (0.0, 1.0))
    models = [synthetic.Model("base"), synthetic.Model("style"), *grafted]
    rows = [row for model in models for row in synthetic.needle(model, "n", 128, 5, each=2)]
    return [*rows, *synthetic.compared(models[-1], 0.1)]


@pytest.mark.parametrize("name", ODD)
def test_an_invalid_row_is_a_sample_without_a_score(
    tmp_path: Path, synthetic: SimpleNamespace, name: str
) -> None:
    rows = study(synthetic)
    rows[-11] |= ODD[name]  # the last needle of the graft
    database = read_samples([synthetic.write(tmp_path / "a.parquet", rows)])
    samples = database.rows("sample_browser")
    assert len(samples) == len(rows)
    bad = [sample for sample in samples if sample["status"] != "ok"]
    assert [(sample["status"], sample["score"]) for sample in bad] == [("failed", None)]
    assert "invalid row: " in bad[0]["reason"]
    assert next(iter(ODD[name])) in bad[0]["reason"]


@pytest.mark.parametrize("text", TEXTS)
def test_names_are_short_and_without_control_characters(
    tmp_path: Path, synthetic: SimpleNamespace, text: str
) -> None:
    rows = [{**row, "model": text, "task": text, "target_name": text} for row in study(synthetic)]
    database = read_samples([synthetic.write(tmp_path / "a.parquet", rows)])
    for row in database.rows("labels"):
        assert len(row["label"]) <= 80
        assert not any(ord(character) < 32 or ord(character) == 0x202E for character in row["label"])


def test_the_page_is_made_whatever_single_rows_hold(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = study(synthetic)
    for index, change in enumerate(ODD.values()):
        rows[10 + 2 * index] = {**rows[10 + 2 * index], **change}
    for text in TEXTS:
        rows += synthetic.needle(synthetic.Model(text or "empty"), "n", 128, 1, each=1)
    report = build([synthetic.write(tmp_path / "a.parquet", rows)], [], "title \x1b", None)
    assert "invalid row" in report.texts["index.html"]
    assert all(len(Path(name).name.encode()) <= 255 for name in (*report.texts, *report.pictures))


@pytest.mark.parametrize("text", TEXTS)
def test_a_chart_draws_any_text(text: str) -> None:
    point = {"data": {"values": [{"x": text, "y": 1}]}, "mark": "point"}
    drawn = render({**point, "title": text, "encoding": {"x": {"field": "x"}, "y": {"field": "y"}}}, text)
    assert drawn.startswith("<svg ")
    assert "\x1b" not in drawn


def test_long_titles_have_short_and_different_file_names() -> None:
    assert slug("Style r4") == "style_r4"
    assert len({slug("x" * 300 + end) for end in "ab"}) == 2
    assert len(slug("x" * 300)) < 80
