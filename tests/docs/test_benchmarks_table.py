"""The tables of docs/benchmarks.md are those that the benchmark prints of docs/data/bench.json."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_tables_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    measured = importlib.import_module("results").Measured.read(ROOT / "docs/data/bench.json")
    shown = importlib.import_module("table").markdown(measured)
    assert set(measured.costs) == set(importlib.import_module("shapes").SHAPES)
    assert shown in (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
