"""Whatever a user mistypes: one line, exit code 2."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("contextgraft")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(COMMAND), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["graft"], "No such command 'graft'; see"),
        (["evalute"], "No such command 'evalute'. Did you mean 'evaluate'?"),
        (["rope", "--theta", "much"], "'much' is not a valid float"),
        (["rope", "--thetta", "1"], "No such option '--thetta'. Did you mean '--theta'?"),
        (["extract", "--base", "a", "--donor", "b", "--rank", "0", "--out", "c"], "0 is not in the range"),
        (["merge", "--target", "a", "--out", "b"], "Missing option '--adapter'"),
        (["evaluate", "nowhere", "--suite", "poems", "--out", "x.parquet"], "'poems' is not"),
        (["inspect", "nowhere"], "no such model folder"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("contextgraft: error: ")
    assert said in lines[0]


def test_no_verb_shows_the_verbs() -> None:
    done = run()
    assert done.returncode == 2
    assert "extract" in done.stderr


def test_a_refusal_is_recorded_and_exits_with_0(tmp_path: Path) -> None:
    out = tmp_path / "model"
    done = run("--refusal", str(out), "fetch", str(tmp_path / "nowhere"), "--out", str(out))
    assert (done.returncode, done.stdout) == (0, "")
    assert "refused and recorded" in done.stderr
    again = run("inspect", str(out))
    assert again.returncode == 2
    assert "was refused by fetch" in again.stderr


def test_a_mistyped_command_is_no_refusal(tmp_path: Path) -> None:
    done = run("--refusal", str(tmp_path / "model"), "fetch")
    assert done.returncode == 2
    assert not (tmp_path / "model").exists()
