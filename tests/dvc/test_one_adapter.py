"""One adapter taken from a git repository with a DVC remote, as docs/versions.md says."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from contextgraft.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def run(folder: Path, *words: str) -> None:
    """A command of this environment, with a git identity of its own."""
    names = {
        f"GIT_{role}_{field}": "tests@localhost"
        for role in ("AUTHOR", "COMMITTER")
        for field in ("NAME", "EMAIL")
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, **names, "PATH": path, "DVC_NO_ANALYTICS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (words, done.stdout[-1000:], done.stderr[-2000:])


def documented(verb: str, **replaced: str) -> list[str]:
    """The command of the page, with the names of this test."""
    text = (ROOT / "docs/versions.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith(f"dvc {verb} "))
    words = line.split("#")[0].split()
    return [replaced.get(word, word) for word in words]


def test_get_and_import_give_the_files_of_that_version(toy: SimpleNamespace, tmp_path: Path) -> None:
    base = toy.weights(toy.config())
    longer = toy.config(max_position_embeddings=1024, rope_theta=8e4)
    toy.write(tmp_path / "base", base, toy.config())
    toy.write(tmp_path / "donor", toy.moved(base, 1), longer)
    owner, user = tmp_path / "owner", tmp_path / "user"
    adapters = owner / "data/my-study/adapters"
    pair = ["--base", str(tmp_path / "base"), "--donor", str(tmp_path / "donor")]
    adapters.parent.mkdir(parents=True)
    done = CliRunner().invoke(cli, ["extract", *pair, "--rank", "4", "--rank", "32", "--out", str(adapters)])
    assert done.exit_code == 0, done.output
    for words in (
        "git init -q",
        "dvc init -q",
        f"dvc remote add -q --default store {tmp_path / 'store'}",
        "dvc add -q data/my-study/adapters",
        "git add --all",
        "git commit -q -m adapters",
        "git tag v1",
        "dvc push -q",
    ):
        run(owner, *words.split())
    user.mkdir()
    names = {"ADDRESS": str(owner)}
    run(user, *documented("get", **names, r32="got"))
    run(user, "git", "init", "-q")
    run(user, "dvc", "init", "-q")
    run(user, *documented("import", **names))
    expected = toy.contents(adapters / "r32")
    assert toy.contents(user / "got") == expected
    assert toy.contents(user / "r32") == expected
    assert "rev_lock" in (user / "r32.dvc").read_text()
    assert not (user / "r4").exists()
    run(user, *documented("update", v2="v1"))
