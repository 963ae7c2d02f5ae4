"""What others do meanwhile: change an input, start a second run, press Ctrl-C."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

VERBS = {"extract": ("base", "donor"), "merge": ("adapter", "target")}
SHARES = (0.1, 0.9)  # how far the run is
COMMAND = Path(sys.executable).with_name("contextgraft")


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def replace(path: Path) -> None:
    """Another file of the same size under the name."""
    other = path.with_name("other")
    other.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    other.replace(path)


def overwrite(path: Path) -> None:
    """Other numbers in the same file."""
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"\x11" * 8)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" ")


CHANGES: dict[str, Callable[[Path], object]] = {
    "touched": touch, "replaced": replace, "overwritten": overwrite, "cut": cut, "grown": grow,
    "removed": Path.unlink,
}  # fmt: skip
FILES = [
    ("extract", "base", "model-00001-of-00002.safetensors"),
    ("extract", "base", "config.json"),
    ("extract", "donor", "model-00003-of-00003.safetensors"),
    ("extract", "donor", "model.safetensors.index.json"),
    ("merge", "target", "model-00001-of-00003.safetensors"),
    ("merge", "target", "model-00003-of-00003.safetensors"),
    ("merge", "target", "config.json"),
    ("merge", "target", "model.safetensors.index.json"),
    ("merge", "target", "tokenizer_config.json"),
    ("merge", "adapter", "adapter_model.safetensors"),
    ("merge", "adapter", "contextgraft.safetensors"),
]


def working(run: Any) -> int:
    """Steps until the last tensor is on record; what comes after is publishing."""
    assert run.status == 0, run.stderr
    return max(
        at for at, (what, path) in enumerate(run.steps, start=1) if "/.journal/" in path and "rename" in what
    )


@pytest.fixture(scope="module")
def lengths(scenario: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Working steps of undisturbed runs."""
    place = tmp_path_factory.mktemp("lengths")
    return {name: working(scenario.run(job, place / name)) for name, job in scenario.jobs.items()}


def variants() -> list[Any]:
    """Files and changes: every change of weights and of a config, and one change of every file, are fast."""
    fast = {(file, "overwritten") for file in FILES}
    fast |= {(FILES[index], change) for index in (0, 6) for change in CHANGES}
    return [
        pytest.param(*file, change, marks=[] if (file, change) in fast else pytest.mark.slow)
        for file in FILES for change in CHANGES
    ]  # fmt: skip


@pytest.mark.parametrize(("verb", "folder", "name", "change"), variants())
def test_an_input_is_changed(sandbox: Any, verb: str, folder: str, name: str, change: str) -> None:
    path = sandbox[folder] / name
    last = working(sandbox.run(verb))
    shutil.rmtree(sandbox.root / "out")
    before = sorted(sandbox.root.rglob("*"))
    for share in SHARES:
        whole = path.read_bytes()
        stopped = sandbox.run(verb, at=int(share * last), signal=signal.SIGSTOP)
        assert stopped.status is None
        CHANGES[change](path)
        line = sandbox.fork_server.resume(stopped).error_line()
        assert line.startswith(f"contextgraft: error: {path}: was changed while it was read"), line
        path.write_bytes(whole)
        assert sorted(sandbox.root.rglob("*")) == before, "something was left behind"


@pytest.mark.parametrize("second", VERBS)
@pytest.mark.parametrize("first", VERBS)
def test_two_runs_at_once(
    scenario: Any, lengths: dict[str, int], tmp_path: Path, first: str, second: str
) -> None:
    out = tmp_path / "out"
    for share in SHARES:
        at = int(share * lengths[first])
        stopped = scenario.run(scenario.jobs[first], out, at=at, signal=signal.SIGSTOP)
        assert stopped.status is None
        before = scenario.contents(tmp_path)
        line = scenario.run(scenario.jobs[second], out).error_line()
        assert line.startswith(f"contextgraft: error: {out}: another run is writing it"), line
        assert scenario.contents(tmp_path) == before
        assert scenario.fork_server.resume(stopped).status == 0
        assert scenario.contents(out) == scenario.jobs[first].expected
        assert list(tmp_path.iterdir()) == [out]
        shutil.rmtree(out)


@pytest.mark.parametrize("amount", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", VERBS)
def test_interrupted(scenario: Any, lengths: dict[str, int], tmp_path: Path, name: str, amount: int) -> None:
    job, last = scenario.jobs[name], lengths[name]
    resumed = 0
    while_working = random.Random(name).sample(range(1, last), 5 * amount)
    for at in (*while_working, *range(last, last + 16, 4 // amount)):
        out = tmp_path / str(at) / "out"
        out.parent.mkdir()
        done = scenario.run(job, out, at=at, signal=signal.SIGINT)
        assert done.status == 130, f"at {at}: {done.stderr}"
        said = done.stderr.splitlines()
        assert said[1:] == ["contextgraft: interrupted; run the same command again to resume"]
        kept = {str(path) for path in out.parent.rglob(".journal/*.json") if path.name != "job.json"}
        again = scenario.run(job, out)
        assert again.status == 0 or "already exists" in again.error_line()
        assert not again.written & kept
        assert scenario.contents(out) == job.expected
        assert list(out.parent.iterdir()) == [out]
        resumed += bool(kept)
    assert resumed >= 3 * amount, "hardly anything was there to resume"


@pytest.mark.parametrize("verb", VERBS)
def test_interrupted_before_anything_is_done(sandbox: Any, verb: str) -> None:
    before = sorted(sandbox.root.rglob("*"))
    for at in (2, 3, 5):
        assert sandbox.run(verb, at=at, signal=signal.SIGINT).status == 130
        assert sorted(sandbox.root.rglob("*")) == before


def test_the_program_itself(sandbox: Any) -> None:
    """What the fork server shows of a mistake is what a shell sees."""
    (sandbox["adapter"] / "adapter_model.safetensors").write_bytes(b"\x80\x04")
    words = [str(COMMAND), "merge", "--out", str(sandbox.root / "out")]
    words += [word for name in VERBS["merge"] for word in (f"--{name}", str(sandbox[name]))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0].startswith("contextgraft: error: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.strip() == sandbox.run("merge").error_line()
