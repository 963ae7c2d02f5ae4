"""The command line as a black box: a world to run it on, and a nursery that runs it hundreds of times."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

RANKS = (2, 4, 8)
SECONDS = 60  # a run that takes longer hangs
MEMORY = 1 << 30  # bytes that a file of a few kilobytes may cost


@dataclass(frozen=True)
class Outcome:
    """How one run ended: `status` is the exit code, or minus the signal, or None if it stopped itself."""

    status: int | None
    late: bool
    pid: int
    seconds: float
    stdout: str
    stderr: str
    steps: list[list[str]]

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.status == -9

    @property
    def written(self) -> set[str]:
        """Files opened for writing or renamed into being."""
        return {path for what, path in self.steps if what in ("open", "os.rename")}

    def complaint(self, status: int = 2) -> str:
        """The one line that a mistake gives; anything else fails."""
        assert not self.late, f"hangs: {self.stderr}"
        assert self.status == status, f"exit code {self.status}: {self.stderr}"
        plan = ("extract: ", "merge: ", "contextgraft: warning: ")
        lines = [line for line in self.stderr.splitlines() if not line.startswith(plan)]
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("contextgraft: error: ")
        assert len(lines[0]) < 2000, f"{len(lines[0])} characters in a line"
        assert lines[0].isprintable(), repr(lines[0])
        return lines[0]


class Nursery:
    """Runs of the command line, each in a forked child; see nursery.py for the orders."""

    def __init__(self) -> None:
        script = str(Path(__file__).with_name("nursery.py"))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self._line() == "ready\n"

    def run(self, args: list[str], **order: Any) -> Outcome:
        """Run to the end, or to where the order stops or kills it."""
        return self._ask({"args": args, "timeout": SECONDS, **order})

    def resume(self, stopped: Outcome) -> Outcome:
        """Let a run that stopped itself go on to its end."""
        return self._ask({"resume": stopped.pid, "timeout": SECONDS})

    def close(self) -> None:
        """End the nursery."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(SECONDS)

    def _ask(self, order: dict[str, Any]) -> Outcome:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return Outcome(**json.loads(self._line()))

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@dataclass(frozen=True)
class Job:
    """A command, complete but for its output, and the files that it writes there when nothing disturbs it."""

    args: tuple[str, ...]
    parts: tuple[str, ...]  # folders below the output that appear whole; "" is the output itself
    expected: dict[str, bytes]


@dataclass(frozen=True)
class Fire:
    """Folders of a world; `jobs` are an extraction and a merge in it, undisturbed once already."""

    root: Path
    adapters: Path
    jobs: dict[str, Job]
    nursery: Nursery
    contents: Callable[[Path], dict[str, bytes]]

    def run(self, job: Job, out: Path, **order: Any) -> Outcome:
        """A run of a job."""
        return self.nursery.run([*job.args, "--out", str(out), "--threads", "1"], **order)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """One nursery for all tests."""
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="session")
def fire(toy: SimpleNamespace, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Fire:
    """A world in shards, not to be written to, and what undisturbed runs make of it."""
    root = tmp_path_factory.mktemp("fire")
    config = toy.config()
    base = toy.weights(config)
    longer = {**config, "rope_theta": 4e4, "max_position_embeddings": 1024}
    toy.write(root / "base", base, config, 2)
    toy.write(root / "donor", toy.moved(base, 1), longer, 3)
    toy.write(root / "target", toy.moved(base, 2, 0.005), config, 3)
    made = Fire(root, root / "adapters", {}, nursery, toy.contents)
    ranks = [word for rank in RANKS for word in ("--rank", str(rank))]
    extract = ("extract", "--base", str(root / "base"), "--donor", str(root / "donor"), *ranks)
    merge = ("merge", "--adapter", str(root / "adapters" / "r4"), "--target", str(root / "target"))
    parts = tuple(f"r{rank}" for rank in RANKS)
    for job, out in ((Job(extract, parts, {}), made.adapters), (Job(merge, ("",), {}), root / "graft")):
        done = made.run(job, out)
        assert done.status == 0, done.stderr
        made.jobs[job.args[0]] = Job(job.args, job.parts, toy.contents(out))
    return made


@dataclass(frozen=True)
class Arena:
    """A world of one's own to spoil."""

    root: Path
    nursery: Nursery

    def __getitem__(self, name: str) -> Path:
        """A folder: base, donor, target or adapter."""
        return self.root / name

    def run(self, verb: str, **order: Any) -> Outcome:
        """Extract or merge into `out`."""
        names = {"extract": ("base", "donor"), "merge": ("adapter", "target")}[verb]
        inputs = [word for name in names for word in (f"--{name}", str(self.root / name))]
        rank = ["--rank", "4"] if verb == "extract" else []
        words = [verb, *inputs, *rank, "--out", str(self.root / "out"), "--threads", "1"]
        return self.nursery.run(words, **order)

    def refuses(self, verb: str, words: str) -> None:
        """The run ends soon in one line with these words, in bounded memory, and leaves nothing behind."""
        before = sorted(self.root.rglob("*"))
        line = self.run(verb, memory=MEMORY, timeout=20).complaint()
        assert re.search(words, line), line
        assert sorted(self.root.rglob("*")) == before, "something was left behind"


@pytest.fixture
def arena(fire: Fire, nursery: Nursery, tmp_path: Path) -> Arena:
    """Copies of the world's models, and of its adapter of rank 4."""
    for name in ("base", "donor", "target"):
        shutil.copytree(fire.root / name, tmp_path / name)
    shutil.copytree(fire.adapters / "r4", tmp_path / "adapter")
    return Arena(tmp_path, nursery)
