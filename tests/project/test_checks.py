"""Style, types, layers and formats, each checked by its own tool; the locks and the command line's start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ..cli.fork_server import fork_server

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

PYTHON_CODE = ("src", "tests", "bench", "world", "scripts")
CHECKS = {
    "ruff": ["ruff", "check", *PYTHON_CODE],
    "format": ["ruff", "format", "--check", *PYTHON_CODE],
    "types": ["mypy"],
    "layers": ["lint-imports"],
    "snakefmt": ["snakefmt", "--check", "Snakefile", "workflow"],
}


@pytest.mark.parametrize("name", CHECKS)
def test_check(name: str) -> None:
    command = CHECKS[name]
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def test_every_verb_has_help() -> None:
    from contextgraft.cli.main import VERBS

    for verb in VERBS:
        done = fork_server().run(verb, "--help", folder=ROOT)
        assert done.returncode == 0, done.stderr
        assert "Usage: contextgraft" in done.stdout


def test_help_does_not_import_torch() -> None:
    code = """
import sys
from contextgraft.cli.main import VERBS, cli
commands = [cli.get_command(None, verb) for verb in VERBS]
assert "torch" not in sys.modules, "a command imports torch at the top"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_lock_covers_pyproject() -> None:
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for e in project["optional-dependencies"].values() for d in e)]
    names = {re.split(r"[\[<>=!~ ]", w)[0].lower().replace("_", "-") for w in wanted} - {"contextgraft"}
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    locked = {line.split("==")[0].lower().replace("_", "-") for line in lock if "==" in line}
    assert names <= locked, f"run `make lock`: missing {sorted(names - locked)}"
    assert not [line for line in lock if "+" in line or "@" in line], (
        "local builds and paths do not belong in a lock"
    )


LOCKS = sorted(
    {
        *ROOT.glob("*.lock"),
        *(path for name in ("envs", "scripts", "tests") for path in (ROOT / name).rglob("*.lock")),
    }
)


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_pin_has_hashes_and_no_index_is_named(path: Path) -> None:
    import re

    text = path.read_text().replace("\\\n", " ")
    entries = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(entries) > (200 if path.parent == ROOT else 0)
    form = re.compile(r"[a-z0-9][a-z0-9-]*==[\w.]+( +--hash=sha256:[0-9a-f]{64})+")
    assert not [line[:80] for line in entries if not form.fullmatch(line)]


@pytest.mark.parametrize("path", [path for path in LOCKS if path.parent != ROOT], ids=lambda path: path.name)
def test_a_lock_has_what_its_file_asks_for(path: Path) -> None:
    wanted = [line for line in path.with_suffix(".in").read_text().splitlines() if not line.startswith("#")]
    pins = {line.split()[0] for line in path.read_text().splitlines() if "==" in line}
    assert {requirement.replace("[server]", "") for requirement in wanted} <= pins


def test_what_is_added_to_the_lock_does_not_change_it() -> None:
    names = [
        {line.split("==")[0] for line in (ROOT / path).read_text().splitlines() if "==" in line}
        for path in ("requirements.lock", "tests/dvc/requirements.lock")
    ]
    assert not names[0] & names[1]


def test_what_npm_installs_has_digests() -> None:
    packages = json.loads((ROOT / "tests/consumers/locks/node/package-lock.json").read_text())["packages"]
    assert len(packages) > 100
    assert not [
        name
        for name, entry in packages.items()
        if name and not entry.get("integrity", "").startswith("sha512-")
    ]


def test_the_lock_for_gpus_has_the_same_pins_and_torchs_libraries() -> None:
    names = ("requirements.lock", "requirements-cuda.lock")
    common, cuda = (
        {line.split()[0] for line in (ROOT / name).read_text().splitlines() if "==" in line} for name in names
    )
    assert common < cuda
    assert all(pin.startswith(("cuda-", "nvidia-", "triton==")) for pin in cuda - common)


def test_make_fix_covers_what_the_checks_read() -> None:
    assert f"PYTHON_CODE := {' '.join(PYTHON_CODE)}\n" in (ROOT / "Makefile").read_text()
