"""docs/real-weights.md: its table is made of the rows in docs/data/real.parquet, its settings of recipes."""

import re
from itertools import product
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from contextgraft.cli.main import cli

from .tables import ROOT, page, table, wilson

PAGE = page("real-weights")
STUDY = ROOT / "config/studies"
RULER = 8
ROWS: list[dict[str, Any]] = pq.read_table(ROOT / "docs/data/real.parquet").to_pylist()
MODELS = {
    "base": "base",
    "donor": "donor-s1",
    "fine-tune alone": "capitals",
    "theta only": "capitals-s1-theta-only",
    "YaRN": "capitals-s1-yarn",
    "graft r32": "capitals-s1-r32",
    "graft r128": "capitals-s1-r128",
}
COLUMNS = (("needle", 2048), ("needle", 16384), ("skill", None), ("long_skill", 12288))
SCORES = table(PAGE, "model", "needles at 2,048")
SETTINGS = dict(table(PAGE, "", ""))


def recipe(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((STUDY / name).read_text())
    return read


def rows_of(model: str, suite: str, length: int | None) -> list[dict[str, Any]]:
    return [
        row
        for row in ROWS
        if (row["model"], row["suite"]) == (MODELS[model], suite) and length in (None, row["length"])
    ]


def cell(rows: list[dict[str, Any]]) -> str:
    right = sum(row["score"] for row in rows)
    low, high = wilson(right, len(rows))
    share = f"{100 * right / len(rows):.1f}".removesuffix(".0")
    return f"{share} [{low:.0f}, {high:.0f}]"


@pytest.mark.parametrize("shown", SCORES, ids=lambda row: row[0])
def test_cells_are_those_of_the_rows(shown: list[str]) -> None:
    for text, (suite, length) in zip(shown[1:], COLUMNS, strict=True):
        rows = rows_of(shown[0], suite, length)
        assert text == (cell(rows) if rows else "")


def test_every_row_counts() -> None:
    assert [row[0] for row in SCORES] == list(MODELS)
    assert {row["model"] for row in ROWS} == set(MODELS.values())
    assert {row["status"] for row in ROWS} == {"ok"}
    assert {row["chat"] for row in ROWS} == {True}
    settings = recipe("smollm2.yaml")["evaluation"]
    for model, length in product(MODELS, settings["needle"]["lengths"]):
        rows = rows_of(model, "needle", length)
        texts = {row["document"] for row in rows}
        assert len(rows) == len(texts) * len(settings["needle"]["depths"])
        assert f"n = {len(rows)} from {len(texts)} texts" in PAGE
    for model in MODELS:
        rows = rows_of(model, "long_skill", None)
        assert len(rows) in (0, settings["long_skill"]["samples"])
        assert len({row["document"] for row in rows}) in (0, settings["long_skill"]["texts"])


@pytest.mark.parametrize("row", table(PAGE, "task", "2,048 tokens"), ids=lambda row: row[0])
def test_intervals_of_recall_are_those_of_its_share(row: list[str]) -> None:
    for text in row[1:]:
        share, low, high = (float(number) for number in re.findall(r"[\d.]+", text))
        for bound, expected in zip((low, high), wilson(share / 100 * RULER, RULER), strict=True):
            assert bound == pytest.approx(expected, abs=1.01)  # the share is rounded


def test_settings_are_those_of_the_recipes() -> None:
    donor, short, tune = (recipe(f"smollm2/{name}.yaml") for name in ("donor", "short_donor", "fine_tune"))
    steps = sum(stage["steps"] for stage in donor["stages"])
    (tokens,) = {stage["tokens"] for stage in donor["stages"]}
    (theta,) = {stage["theta"] for stage in donor["stages"]}
    assert f"{steps} steps of {tokens:,} tokens" in SETTINGS["donor"]
    assert f"theta {theta:,}" in SETTINGS["donor"]
    words = ["rope", "--theta", "100000", "--context", "8192", "--head-dim", "64", "--to", "16384"]
    assert CliRunner().invoke(cli, words).output.split()[-1] == str(theta)
    assert f"{tune['stages'][0]['steps']} steps" in SETTINGS["fine-tune"]
    assert SETTINGS["adapters"].startswith(f"ranks {' and '.join(map(str, recipe('smollm2.yaml')['ranks']))}")
    same = [{**stage, "target_length": 16384} for stage in short["stages"]]
    assert (same, short["data"], short["seed"]) == (donor["stages"], donor["data"], donor["seed"])
