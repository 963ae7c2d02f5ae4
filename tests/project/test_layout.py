"""The files that users of Snakemake and DVC expect, and rules of this project that no linter knows."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from contextgraft.cli.main import VERBS

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
        ".github/workflows/ci.yml",
        ".pre-commit-config.yaml",
        "CHANGELOG.md",
        "CITATION.cff",
        "CONTRIBUTING.md",
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


def test_folders_are_small() -> None:
    """No package has more than 13 modules; `cli/commands` has one for every command."""
    package = ROOT / "src/contextgraft"
    modules: dict[str, int] = defaultdict(int)
    for path in package.rglob("*.py"):
        modules[path.parent.relative_to(package).as_posix()] += path.name != "__init__.py"
    allowed = {"cli/commands": len(VERBS) + 4}
    large = {name: count for name, count in modules.items() if count > allowed.get(name, 13)}
    assert not large, f"divide them into packages: {large}"


def test_a_class_name_means_one_thing() -> None:
    defined: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                defined[node.name].append(path.relative_to(ROOT).as_posix())
    twice = {name: places for name, places in defined.items() if len(places) > 1}
    assert not twice, f"give one of each pair another name: {twice}"


def test_ci_on_github_runs_the_same_script() -> None:
    assert "run: bash .ci/run" in (ROOT / ".github/workflows/ci.yml").read_text()


def test_no_pickle_is_loaded() -> None:
    pattern = re.compile(
        r"\btorch(\.serialization)?\.load\(|\bpickle\.loads?\(|import pickle|torch import .*load"
    )
    found = [p for p in (ROOT / "src").rglob("*.py") if pattern.search(p.read_text())]
    child = ROOT / "src/contextgraft/sources/pickles/child.py"  # tensors alone, in a process of its own
    assert found == [child]
    assert len(pattern.findall(child.read_text())) == 1
    assert re.search(r"torch\.serialization\.load\([^()]*weights_only=True", child.read_text())


def test_the_embedded_world_is_small() -> None:
    world = ROOT / "src/contextgraft/sources/demo"
    assert sum(p.stat().st_size for p in world.rglob("*") if p.is_file()) <= 20e6
