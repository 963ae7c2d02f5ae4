"""A study that was interrupted or killed, at whatever moment, goes on by the same command, without a flag."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from contextgraft.errors import OutputBusy
from contextgraft.workflow import StudyLock, begin_study_run

from .conftest import StudyFolder

ROOT = Path(__file__).parents[2]
ONE_JOB = "data/tiny/models/base/contextgraft.json"
LOCK = ".snakemake/studies/tiny.lock"
SECONDS = 1200  # a whole study on a busy machine


class Study:
    """Snakemake as a person runs it, in a session of its own; jobs are the installed command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
        self.words = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]

    def start(self, *stage: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.words, *stage, "--configfile", "config/config.yaml"],
            cwd=self.folder, env=self.environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *stage: str) -> subprocess.CompletedProcess[str]:
        """The same command to its end; in forked processes, which nothing disturbs."""
        return StudyFolder(self.folder).snakemake(*stage)

    def finish(self, *stage: str) -> str:
        """The same, which must end well."""
        done = self.run(*stage)
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    def jobs(self) -> list[int]:
        """Processes of `contextgraft` in the folder."""
        return [
            int(entry.name)
            for entry in Path("/proc").glob("[0-9]*")
            if _links_to(entry / "cwd", self.folder) and b"contextgraft\0" in _bytes(entry / "cmdline")
        ]


def _links_to(link: Path, folder: Path) -> bool:
    with suppress(OSError):
        return link.readlink() == folder
    return False


def _bytes(path: Path) -> bytes:
    with suppress(OSError):
        return path.read_bytes()
    return b""


def wait(event: Callable[[], object], head: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not event():
        assert head.poll() is None, head.communicate()[0][-6000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def study(fresh: Any) -> Iterator[Study]:
    """The tiny study, whose donor is fetched; whatever of it is left running is killed in the end."""
    fresh.config(donor={"source": "models/long"})
    made = Study(fresh.folder)
    yield made
    for job in made.jobs():
        with suppress(ProcessLookupError):
            os.kill(job, signal.SIGKILL)


def killed(head: subprocess.Popen[str], number: int, whole: bool) -> None:
    """Send a signal to the head, or also to all of its jobs, as a terminal does, and wait for its end."""
    if whole:
        os.killpg(head.pid, number)
    else:
        head.send_signal(number)
    with suppress(subprocess.TimeoutExpired):
        head.wait(5)  # with SIGINT or SIGTERM, the head alone waits for its jobs
    head.wait(SECONDS)


@pytest.mark.slow  # in forked processes: test_interrupted_often.py
def test_ctrl_c_when_a_job_has_just_published_its_output(study: Study) -> None:
    study.finish("models")
    head = study.start("adapters")
    adapter = study.folder / "data/tiny/adapters/s1/r1/contextgraft.json"
    wait(adapter.exists, head)
    killed(head, signal.SIGINT, whole=True)
    study.finish("adapters")
    assert adapter.exists()


def test_a_killed_head_is_followed_by_the_same_command_though_its_job_runs_on(study: Study) -> None:
    head = study.start(ONE_JOB)
    wait(study.jobs, head)
    left = study.jobs()
    for job in left:
        os.kill(job, signal.SIGSTOP)  # a job that would never end
    killed(head, signal.SIGKILL, whole=False)
    assert json.loads((study.folder / LOCK).read_text())["process"] == head.pid
    output = study.finish(ONE_JOB)
    assert "of a killed run of this study" in output
    assert not set(left) & set(study.jobs())
    assert (study.folder / LOCK).read_text() == ""


def test_a_living_head_is_never_displaced(study: Study) -> None:
    head = study.start(ONE_JOB)
    wait(study.jobs, head)
    for job in study.jobs():
        os.kill(job, signal.SIGSTOP)
    second = study.run(ONE_JOB)
    assert second.returncode == 1
    assert f"another run of this study is alive: {os.uname().nodename}, process {head.pid}" in second.stdout
    assert "Traceback" not in second.stdout
    for job in study.jobs():
        os.kill(job, signal.SIGCONT)
    output, _ = head.communicate(timeout=SECONDS)
    assert head.returncode == 0, output[-6000:]


def test_a_head_on_another_node_may_be_alive(tmp_path: Path) -> None:
    lock = StudyLock(tmp_path / "a.lock")
    lock.path.write_text(json.dumps({"host": "login2", "boot": "other", "process": 7}))
    with pytest.raises(OutputBusy, match=r"login2, process 7 .* may still be alive.*remove this file"):
        lock.acquire()


@pytest.mark.parametrize("left", ["", "{", "[1]", json.dumps({"host": os.uname().nodename, "process": 7})])
def test_what_a_dead_head_of_this_machine_left(tmp_path: Path, left: str) -> None:
    lock = StudyLock(tmp_path / "a.lock")
    lock.path.write_text(left)
    begin_study_run(lock, None)
    with pytest.raises(OutputBusy, match="is alive"):
        StudyLock(lock.path).acquire()
    lock.release()
    assert lock.path.read_text() == ""
