"""The core works without any extra, and a verb whose extra is missing names it in one line."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from contextgraft.cli.main import VERBS
from contextgraft.errors import CheckpointError, InputError, library_errors, missing_extra
from contextgraft.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {
    "vl_convert": "vl-convert-python",
    "yaml": "pyyaml",
    "datasets": "lm-eval",
    "pydantic_core": "pydantic",
}
CORE_VERBS = ("inspect", "plan", "rope", "fetch", "extract", "merge", "verify", "align", "compare", "publish")
BASE = str(ROOT / "src/contextgraft/sources/demo/base")
PLUGINS = {"vllm", "snakemake_interface_logger_plugins"}  # they come with a backend, and with Snakemake
TRACKERS = {"wandb", "mlflow"}  # users install them by themselves; an error says how
SLOW_IMPORTS = "contextgraft: loading libraries"  # on a busy machine; no error
HIDE = f"import sys; sys.modules.update(dict.fromkeys({sorted(EXTRAS)}))\n"


def names(requirements: list[str]) -> set[str]:
    """Normalised names of the distributions that some requirements ask for, extras of our own resolved."""
    plain = {re.split(r"[\[<>=!~ ]", text)[0].lower().replace("_", "-") for text in requirements}
    own = [re.search(r"\[(.*)\]", text) for text in requirements if text.startswith("contextgraft[")]
    parts = [part for match in own if match for part in match[1].split(",")]
    return plain.union(*(names(PROJECT["optional-dependencies"][part]) for part in parts)) - {"contextgraft"}


def third_party(path: Path) -> set[str]:
    """Packages outside the standard library that a file imports anywhere."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    absolute = [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom) and not n.level]
    return {name.partition(".")[0] for name in (*plain, *absolute)} - sys.stdlib_module_names


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HIDE + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_import_is_a_core_dependency_or_an_extra() -> None:
    imported = set().union(*(third_party(path) for path in (ROOT / "src").rglob("*.py")))
    core = names(PROJECT["dependencies"])
    unknown = {
        name
        for name in imported - {"contextgraft", "httpx2"} - PLUGINS - TRACKERS
        if DISTRIBUTIONS.get(name, name.lower().replace("_", "-")) not in core and name not in EXTRAS
    }
    assert not unknown, "declare them in pyproject.toml, and optional ones in contextgraft.extras"


@pytest.mark.parametrize("package", EXTRAS)
def test_an_extra_installs_its_package(package: str) -> None:
    distribution = DISTRIBUTIONS.get(package, package.replace("_", "-"))
    for extra in EXTRAS[package]:
        assert distribution in names(PROJECT["optional-dependencies"][extra])


def test_the_extra_all_has_every_user_extra() -> None:
    extras = PROJECT["optional-dependencies"]
    assert names(extras["all"]) == set().union(*(names(extras[e]) for e in extras if e not in ("all", "dev")))


def test_core_verbs_load_without_any_extra() -> None:
    modules = [path for path in (ROOT / "src/contextgraft").rglob("*.py") if "gguf" not in path.parts]
    core = ("adapter", "checkpoint", "config", "formats", "planning", "prompts", "rope", "sources")
    found = [path.relative_to(ROOT / "src").with_suffix("") for path in modules]
    dotted = [".".join(path.parts) for path in found if path.parts[1] in core and path.name != "gguf"]
    verbs = [f"contextgraft.cli.commands.{verb}" for verb in CORE_VERBS]
    done = run(f"import importlib\nfor name in {dotted + verbs}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["report", "samples.parquet", "--out", "report"], "report"),
        (["evaluate", BASE, "--suite", "needle", "--lengths", "128", "--out", "rows.parquet"], "evaluate"),
        (["train", "--base", BASE, "--config", str(ROOT / "world/facts.yaml"), "--out", "model"], "train"),
        (["fetch", "model.gguf", "--out", "model"], "gguf"),
    ],
)
def test_a_missing_extra_is_named_in_one_line(arguments: list[str], extra: str, tmp_path: Path) -> None:
    for name in ("samples.parquet", "model.gguf"):
        (tmp_path / name).touch()
    code = f"import os; os.chdir({str(tmp_path)!r})\nfrom contextgraft.cli.main import main; main()"
    done = run(code, *arguments)
    assert done.returncode == 2, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line != SLOW_IMPORTS]
    assert line.startswith(f"contextgraft: error: {arguments[0]} needs the package ")
    assert line.endswith(f"pip install 'contextgraft[{extra}]'")


def test_other_missing_modules_are_not_explained_away() -> None:
    assert missing_extra(ModuleNotFoundError(name="no_such_package"), "report") is None
    assert missing_extra(ModuleNotFoundError(name="contextgraft.nothing"), "report") is None


@pytest.mark.parametrize(
    ("error", "package"),
    [
        (ModuleNotFoundError(name="peft.tuners"), "peft"),
        (
            ValueError("Using a `device_map` requires `accelerate`. Try `pip install accelerate`"),
            "accelerate",
        ),
        (ImportError("This needs Accelerate: `pip install 'accelerate>=0.26.0'`"), "accelerate"),
    ],
)
def test_a_library_that_misses_an_extra_does_not_blame_the_model(
    error: Exception, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    remedy = re.escape(f"pip install 'contextgraft[{EXTRAS[package][0]}]'")
    with (
        pytest.raises(InputError, match=f"needs the package {package}.*{remedy}"),
        library_errors("is bad", "m"),
    ):
        raise error


def test_a_library_that_misses_another_package_says_so() -> None:
    error = ImportError("needs sentencepiece: pip install sentencepiece")
    with (
        pytest.raises(CheckpointError, match=r"m: is bad.*pip install sentencepiece"),
        library_errors("is bad", "m"),
    ):
        raise error


def test_a_verb_without_an_extra_of_its_name_gets_the_first() -> None:
    error = missing_extra(ModuleNotFoundError(name="transformers.utils"), "plan")
    assert error is not None
    assert "contextgraft[evaluate]" in str(error)
    assert "plan" in VERBS
