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
    "short donor": "capitals-s1-short-donor",
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


@pytest.mark.parametrize("row", table(PAGE, "over", "needles at 16,384"), ids=lambda row: row[0])
def test_what_the_graft_adds_on_the_prompts_that_judge_it(row: list[str]) -> None:
    """Differences of paired shares; their intervals by Newcombe's method 10, written out here."""
    for text, suite, length in ((row[1], "needle", 16384), (row[3], "skill", None)):
        graft, control = (judged(model, suite, length) for model in ("graft r32", row[0]))
        assert (graft.keys(), len(graft)) == (control.keys(), 45)
        pairs = [(graft[key], control[key]) for key in graft]
        expected = (100 * sum(a - b for a, b in pairs) / len(pairs), *paired_interval(pairs))
        shown = [float(number) for number in re.findall(r"[+-]?[\d.]+", text.replace("\u2212", "-"))]
        assert shown == pytest.approx(expected, abs=0.051)


def test_the_verdict_that_is_told() -> None:
    right = sum(judged("graft r32", "needle", 16384).values())
    low, high = wilson(right, 45)
    assert f"found {right:.0f} of 45 needles ({100 * right / 45:.1f} % [{low:.0f}, {high:.0f}])" in PAGE


@pytest.mark.parametrize(("model", "words"), [("donor", "it finds {}"), ("graft r32", "the graft finds {}")])
def test_counts_of_sixty(model: str, words: str) -> None:
    right = sum(row["score"] for row in rows_of(model, "needle", 16384))
    assert words.format(f"{right:.0f} of 60") in PAGE


def test_what_is_free_and_the_short_donor() -> None:
    yarn, theta, short = (
        sum(row["score"] for row in rows_of(model, "needle", 16384))
        for model in ("YaRN", "theta only", "short donor")
    )
    assert f"finds {yarn:.0f} of 60 and the donor's theta alone {theta:.0f};" in PAGE
    assert f"its graft finds {short:.0f} of 60" in PAGE


def test_what_the_readme_says() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    graft, yarn, alone = (
        sum(row["score"] for row in rows_of(model, "needle", 16384))
        for model in ("graft r32", "YaRN", "fine-tune alone")
    )
    assert alone == 0
    assert f"finds {graft:.0f} of 60 needles, YaRN {yarn:.0f} and the fine-tune none" in text
    assert {row["score"] for row in rows_of("graft r32", "skill", None)} == {1.0}


def judged(model: str, suite: str, length: int | None) -> dict[tuple[int, float | None], float]:
    """Scores of the prompts that judge the rank, by prompt and depth."""
    return {
        (row["sample_index"], row["depth"]): row["score"]
        for row in rows_of(model, suite, length)
        if row["split"] == "report"
    }


def paired_interval(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Percentage points: the square-and-add interval of two paired shares (Newcombe 1998, method 10)."""
    n = len(pairs)
    both, first, second = (
        sum(pair == wanted for pair in pairs) for wanted in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0))
    )
    neither = n - both - first - second
    one, two = (both + first) / n, (both + second) / n
    (low1, high1), (low2, high2) = (
        tuple(bound / 100 for bound in wilson(n * share, n)) for share in (one, two)
    )
    product = (both + first) * (second + neither) * (both + second) * (first + neither)
    cross = both * neither - first * second
    corrected = max(cross - n / 2, 0) if cross > 0 else cross
    phi = corrected / product**0.5 if product else 0.0
    below, above = (
        (left**2 - 2 * phi * left * right + right**2) ** 0.5
        for left, right in ((one - low1, high2 - two), (high1 - one, two - low2))
    )
    return 100 * (one - two - below), 100 * (one - two + above)
