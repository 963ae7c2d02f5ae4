"""docs/real-weights.md: intervals are those of the shares; base, donor and fine-tune those of the recipes."""

import re
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from contextgraft.cli.main import cli

from .tables import ROOT, page, table, wilson

PAGE = page("real-weights")
STUDY = ROOT / "config/studies"
NEEDLES, CAPITALS, RULER = 12, 60, 8
SCORES = table(PAGE, "model", "512 tokens")
SETTINGS = dict(table(PAGE, "", ""))


def recipe(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((STUDY / name).read_text())
    return read


def shown(cell: str) -> tuple[float, int, int]:
    share, low, high = re.findall(r"[\d.]+", cell)
    return float(share), int(low), int(high)


@pytest.mark.parametrize("row", SCORES, ids=lambda row: row[0])
def test_shares_are_of_whole_answers_and_intervals_theirs(row: list[str]) -> None:
    for cell, n in zip(row[1:], (NEEDLES, NEEDLES, NEEDLES, CAPITALS), strict=True):
        if cell != "not evaluated":
            share, low, high = shown(cell)
            right = round(share / 100 * n)
            assert share == round(100 * right / n, 1 if n == CAPITALS else 0)
            assert (low, high) == tuple(round(bound) for bound in wilson(right, n))


@pytest.mark.parametrize("row", table(PAGE, "task", "2,048 tokens"), ids=lambda row: row[0])
def test_intervals_of_recall_are_those_of_its_share(row: list[str]) -> None:
    for cell in row[1:]:
        share, low, high = shown(cell)
        for bound, expected in zip((low, high), wilson(share / 100 * RULER, RULER), strict=True):
            assert bound == pytest.approx(expected, abs=1.01)  # the share is rounded


def test_runs_are_those_of_the_recipes() -> None:
    donor, tune, study = (
        recipe(name) for name in ("smollm2/donor.yaml", "smollm2/fine_tune.yaml", "smollm2.yaml")
    )
    steps = sum(stage["steps"] for stage in donor["stages"])
    (tokens,) = {stage["tokens"] for stage in donor["stages"]}
    (theta,) = {stage["theta"] for stage in donor["stages"]}
    assert SETTINGS["donor"].startswith(f"continued training: {steps} steps of {tokens:,} tokens ")
    assert f"with theta {theta:,}, the progressive rule's value for 16,384;" in SETTINGS["donor"]
    words = ["rope", "--theta", "100000", "--context", "8192", "--head-dim", "64", "--to", "16384"]
    assert CliRunner().invoke(cli, words).output.split()[-1] == str(theta)
    assert f", {tune['stages'][0]['steps']} steps (" in SETTINGS["fine-tune"]
    assert SETTINGS["adapters"].startswith(f"ranks {', '.join(map(str, study['ranks']))} ")
    needle = study["evaluation"]["needle"]
    assert len(needle["depths"]) * needle["samples"] == NEEDLES
    assert study["evaluation"]["skill"]["samples"] == CAPITALS
    assert f"n = {NEEDLES} per cell" in PAGE
    assert f"n = {CAPITALS};" in PAGE
