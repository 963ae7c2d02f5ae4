"""Whatever a user mistypes: one line, exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .fork_server import Run, fork_server

COMMAND = Path(sys.executable).with_name("contextgraft")


def run(*arguments: str) -> Run:
    return fork_server().run(*arguments, folder=Path.cwd())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["graft"], "No such command 'graft'; see"),
        (["evalute"], "No such command 'evalute'. Did you mean 'evaluate'? See `"),
        (["rope", "--theta", "much"], "expected a number, at least 1; received 'much'"),
        (["rope", "--thetta", "1"], "No such option '--thetta'. Did you mean '--theta'?"),
        (["extract", "--base", "a", "--donor", "b", "--rank", "0", "--out", "c"], "at least 1; received '0'"),
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
    done = subprocess.run([str(COMMAND)], capture_output=True, text=True, check=False)
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


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_standard_output_is_one_line() -> None:
    words = [
        str(COMMAND),
        *["rope", "--theta", "5e5", "--context", "8192", "--head-dim", "128", "--to", "65536"],
    ]
    with FULL.open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "standard output" in done.stderr
    assert "No space left on device" in done.stderr


INTERRUPTED = """
import os, signal, sys
import contextgraft.cli.main as main

def verb(group, context):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        {reaction}

main.LazyGroup.invoke = verb
sys.argv = ["contextgraft", "rope"]
main.main()
"""


@pytest.mark.parametrize("reaction", ["raise", "raise RuntimeError('query interrupted')", "sys.exit(1)"])
def test_ctrl_c_exits_with_130_whatever_a_library_makes_of_it(reaction: str) -> None:
    code = INTERRUPTED.format(reaction=reaction)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines() == ["contextgraft: interrupted; run the same command again to resume"]


def test_of_many_processes_only_the_first_speaks_of_ctrl_c() -> None:
    words = [sys.executable, "-c", INTERRUPTED.format(reaction="raise")]
    environment = {**os.environ, "RANK": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (130, "")


def test_ctrl_c_during_an_import_exits_with_130(tmp_path: Path) -> None:
    (tmp_path / "library.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    code = INTERRUPTED.replace("os.kill(os.getpid(), signal.SIGINT)", "import library").format(
        reaction="raise"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(tmp_path)!r}){code}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines() == ["contextgraft: interrupted; run the same command again to resume"]
