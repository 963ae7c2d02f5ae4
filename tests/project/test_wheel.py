"""The built wheel: it is complete, and each extra is enough for its command in a new environment.

The core is installed into one new environment. The environment of an extra sees that one and gets only what
the extra adds, so that torch is installed once and no extra can rely on another.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src/contextgraft"
DEMO = PACKAGE / "sources/demo"
NEEDLES = ROOT / "config/demo/needle_base.yaml"
RECIPE = f"""
name: tiny
stages: [{{length: 128, steps: 1, tokens: 256}}]
data: [{{kind: needle, format: {NEEDLES}}}]
lora: {{rank: 2, alpha: 2}}
optimiser: {{learning_rate: 0.001, weight_decay: 0.1, warmup: 1}}
"""
EVALUATE = [
    "contextgraft", "evaluate", f"base={DEMO / 'base'}", "--format", str(NEEDLES), "--suite", "needle",
    "--lengths", "128", "--depths", "50", "--samples", "2", "--out", "rows.parquet",
]  # fmt: skip
FETCH = ["contextgraft", "fetch"]
EXTRACT = ["contextgraft", "extract", "--base", "base", "--donor", "facts", "--rank", "4"]
COMMANDS: dict[str, list[list[str]]] = {
    "evaluate": [EVALUATE],
    "train": [
        ["contextgraft", "train", "--base", str(DEMO / "base"), "--config", "recipe.yaml", "--out", "trained"]
    ],
    "report": [["contextgraft", "report", "rows.parquet", "--out", "page"]],
    "gguf": [
        [*FETCH, "demo:base", "--out", "base"],
        [*FETCH, "demo:facts", "--out", "facts"],
        [*EXTRACT, "--gguf", "--out", "adapters"],
    ],
    "lm-eval": [["python", "-c", "import contextgraft.evaluation.suites.lm_eval.task"]],
    "tensorboard": [
        [
            "python",
            "-c",
            "from contextgraft.training.reporting.trackers.open import check_installed; "
            "check_installed(['tensorboard'])",
        ]
    ],
    "workflow": [
        ["snakemake", "--lint"],
        ["snakemake", "--dry-run", "--configfile", "config/studies/demo-full.yaml"],
        ["dvc", "--version"],
    ],
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
Runner = Callable[[Path, list[str], Path], subprocess.CompletedProcess[str]]


def run(environment: Path, command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A command by the programs of an environment, without this source tree."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    program = environment / "bin" / command[0]
    return subprocess.run(
        [str(program), *command[1:]], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )


def checked(environment: Path, command: list[str], folder: Path) -> str:
    """Its output; the test fails with it if the command does."""
    done = run(environment, command, folder)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pip(environment: Path, *requirements: str) -> None:
    pins = environment.parent / "pins.txt"
    options = ["--quiet", "--disable-pip-version-check", "--constraint", str(pins)]
    checked(environment, ["python", "-m", "pip", "install", *options, *requirements], environment.parent)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    return next(folder.glob("contextgraft-*.whl"))


@pytest.fixture(scope="session")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and its core dependencies, at the versions of the lock."""
    folder = tmp_path_factory.mktemp("environments")
    pins = [line.split()[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    (folder / "pins.txt").write_text("\n".join(pins))
    subprocess.run([sys.executable, "-m", "venv", str(folder / "core")], check=True)
    torch = next(pin for pin in pins if pin.startswith("torch=="))
    pip(folder / "core", torch, str(wheel))
    return folder / "core"


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples of a small evaluation, made in the environment of the tests."""
    folder = tmp_path_factory.mktemp("rows")
    checked(Path(sys.executable).parents[1], EVALUATE, folder)
    return folder / "rows.parquet"


def extended(core: Path, wheel: Path, extra: str) -> Path:
    """A new environment that sees the core's packages, with those of one extra."""
    environment = core.parent / extra
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = Path("lib") / version / "site-packages"
    (environment / packages / "core.pth").write_text(f"{core / packages}\n")
    pip(environment, f"{wheel}[{extra}]", "--ignore-installed", "--no-deps")
    pip(environment, f"contextgraft[{extra}] @ {wheel.as_uri()}")
    return environment


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    wanted = {name.removeprefix("src/") for name in tracked if name}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == wanted
    needed = (
        "py.typed",
        "report/templates/",
        "report/sql/",
        "sources/demo/base/",
        "planning/shapes/",
        ".yaml",
    )
    assert all(any(part in name for name in held) for part in needed)


def test_the_core_extracts_merges_and_verifies(core: Path, rows: Path, tmp_path: Path) -> None:
    for name in ("base", "facts", "style"):
        checked(core, [*FETCH, f"demo:{name}", "--out", name], tmp_path)
    checked(core, [*EXTRACT, "--out", "adapters"], tmp_path)
    adapter = ["--adapter", "adapters/r4", "--target", "style"]
    checked(core, ["contextgraft", "merge", *adapter, "--out", "graft"], tmp_path)
    output = checked(core, ["contextgraft", "verify", "graft", *adapter], tmp_path)
    assert "graft: verified" in output
    code = "from contextgraft import compare; print(compare('adapters/r4', 'adapters/r4').total.relative)"
    assert float(checked(core, ["python", "-c", code], tmp_path)) < 1e-6
    missing = run(core, ["contextgraft", "report", str(rows), "--out", "page"], tmp_path)
    assert missing.returncode == 2
    assert "pip install 'contextgraft[report]'" in missing.stderr


@pytest.mark.parametrize("extra", COMMANDS)
def test_an_extra_is_enough_for_its_command(
    extra: str, core: Path, wheel: Path, rows: Path, tmp_path: Path
) -> None:
    environment = extended(core, wheel, extra)
    shutil.copy(rows, tmp_path / "rows.parquet") if extra == "report" else None
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    if extra == "workflow":
        for name in ("Snakefile", "workflow", "config", "profiles", "envs", "scripts"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tmp_path / name)
    for command in COMMANDS[extra]:
        checked(environment, command, tmp_path)
