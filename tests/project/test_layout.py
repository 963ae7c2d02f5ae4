"""The top level a user of Snakemake and DVC expects, and the rules of the house that no linter knows."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "name",
    [
        "Snakefile",
        "workflow/Snakefile",
        "config/config.yaml",
        "envs",
        "data/README.md",
        "dvc.yaml",
        ".ci/run",
    ],
)
def test_top_level_has(name: str) -> None:
    assert (ROOT / name).exists()


def test_ci_runs_the_readme_test_command() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text()
    assert "make test" in (ROOT / "README.md").read_text()


def test_sources_are_small() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "src").rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 300
    }
    assert not long, f"one idea a file: {long}"


def test_no_pickle_is_loaded() -> None:
    pattern = re.compile(r"\btorch\.load\(|\bpickle\.loads?\(|import pickle")
    found = [str(p) for p in (ROOT / "src").rglob("*.py") if pattern.search(p.read_text())]
    assert not found


def test_the_embedded_world_is_small() -> None:
    world = ROOT / "src/contextgraft/sources/demo"
    assert sum(p.stat().st_size for p in world.rglob("*") if p.is_file()) <= 20e6
