"""`snakedeploy deploy-workflow` on a clone: the folder that it makes can be planned (docs/workflow.md)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSION = "0.17.1"
POST_DEPLOY = ROOT / "envs/contextgraft.post-deploy.sh"


def run(*words: str | Path, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}
    return subprocess.run(
        list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def snakedeploy() -> Path:
    """The command, in an environment of its own in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "contextgraft" / f"snakedeploy-{VERSION}"
    command = folder / "bin/snakedeploy"
    if not command.exists():
        run(sys.executable, "-m", "venv", folder)
        done = run(folder / "bin/python", "-m", "pip", "install", "--quiet", f"snakedeploy=={VERSION}")
        if done.returncode:
            pytest.skip(f"snakedeploy {VERSION} cannot be installed: {done.stderr[-200:]}")
    return command


@pytest.mark.slow
def test_a_deployed_folder_can_be_planned(snakedeploy: Path, tmp_path: Path) -> None:
    clone, deployed = tmp_path / "clone", tmp_path / "my-study"
    assert run("git", "clone", "--quiet", ROOT, clone).returncode == 0
    assert run("git", "tag", "v0.2.0", cwd=clone).returncode == 0
    done = run(snakedeploy, "deploy-workflow", clone, deployed, "--tag", "v0.2.0")
    assert done.returncode == 0, done.stderr
    assert (deployed / "config/config.yaml").exists()
    assert (deployed / "profiles/slurm/config.v9+.yaml").exists()
    assert not (deployed / "pyproject.toml").exists()
    snakefile = deployed / "workflow/Snakefile"
    text = snakefile.read_text()
    assert '"workflow/Snakefile"' in text  # of a clone on this machine, snakedeploy leaves out the folder
    snakefile.write_text(text.replace('"workflow/Snakefile"', f'"{clone}/workflow/Snakefile"'))
    done = run("snakemake", "--dry-run", "--cores", "1", cwd=deployed)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    jobs = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
    assert {"fetch", "extract", "evaluate", "merge", "report"} <= jobs.keys()


def test_an_environment_outside_of_the_repository_needs_to_know_the_package(tmp_path: Path) -> None:
    done = run("bash", POST_DEPLOY, cwd=tmp_path, CONTEXTGRAFT_SOURCE="")
    assert done.returncode != 0
    assert "CONTEXTGRAFT_SOURCE: set it to what pip can install" in done.stderr


@pytest.mark.parametrize(
    ("name", "variable", "installed"),
    [
        ("contextgraft", "", "."),
        ("contextgraft", "git+A", "git+A"),
        ("other", "git+A", "git+A"),
        ("other", "", ""),
    ],
)
def test_which_package_an_environment_gets(name: str, variable: str, installed: str, tmp_path: Path) -> None:
    """That of CONTEXTGRAFT_SOURCE, else of the repository; never that of another project."""
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "{name}"\ndependencies = ["contextgraft"]\n')
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    path = f"{python.parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "CONTEXTGRAFT_SOURCE": variable}
    done = subprocess.run(
        ["bash", POST_DEPLOY], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == bool(installed)
    assert done.stdout == (f"-m pip install --no-deps {installed}\n" if installed else "")
