"""The first hour of a user: an empty folder, three small models, and the commands of the documentation."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from contextgraft.cli.main import cli
from contextgraft.errors import ContextgraftError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


def documented(page: str, beginning: str, **replaced: str) -> list[str]:
    """The words of the first command of a page's code that begins so, comments left out, names replaced."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / page).read_text())
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    line = next(line for line in lines if line.startswith(f"contextgraft {beginning}"))
    words = shlex.split(line, comments=True)[1:]
    return [replace(word, replaced) for word in words]


def replace(word: str, replaced: dict[str, str]) -> str:
    for name, value in replaced.items():
        word = re.sub(rf"(?<![\w/]){re.escape(name)}(?!\w)", value, word)
    return word


def run(*words: str) -> Ended:
    """`contextgraft WORDS` in this process; a user's mistake ends with 2, as on the command line."""
    done = CliRunner().invoke(cli, words)
    if isinstance(done.exception, ContextgraftError):
        return Ended(2, done.stdout, f"{done.stderr}contextgraft: error: {done.exception}")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Ended(done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def models(toy: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder with `base`, `donor` (1,024 tokens) and `tune`."""
    base = toy.weights(toy.config())
    longer = toy.config(max_position_embeddings=1024, rope_theta=8e4)
    toy.write(tmp_path / "base", base, toy.config())
    toy.write(tmp_path / "donor", toy.moved(base, 1), longer)
    toy.write(tmp_path / "tune", toy.moved(base, 2, 0.005), toy.config())
    monkeypatch.chdir(tmp_path)
