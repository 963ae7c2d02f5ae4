"""A study that was interrupted or killed, at whatever moment, goes on by the same command, without a flag."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from contextgraft.errors import OutputBusy
from contextgraft.workflow import StudyLock, begin_study_run, orphans

from ..command_server import PAUSE, command_server
from . import processes
from .conftest import ROOT, StudyFolder, environment

ONE_JOB = "data/tiny/models/base/contextgraft.json"
LOCK = ".snakemake/studies/tiny.lock"
ARGUMENTS = ("--snakefile", str(ROOT / "Snakefile"), "--cores", "2", "--configfile", "config/config.yaml")
SECONDS = 1200  # a whole study on a busy machine


class ForkedStudy:
    """Snakemake and its jobs in forked processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark, self.go = folder / "pause", folder / "go"
        self.words = [str(command_server("snakemake").command)]
        self.environment = environment() | {PAUSE: str(self.mark)}

    def start(self, *stage: str) -> subprocess.Popen[str]:
        """The head, in a session of its own."""
        return subprocess.Popen(
            [*self.words, *stage, *ARGUMENTS], cwd=self.folder, env=self.environment, text=True,
            start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def start_and_hold(self, stage: str) -> subprocess.Popen[str]:
        """The head, with a job that does not end before `release`."""
        self.mark.write_text(f"before {self.go}")
        head = self.start(stage)
        wait(lambda: not self.mark.exists(), head)
        return head

    def release(self) -> None:
        """Let the jobs go on."""
        self.go.touch()

    def head(self, _: subprocess.Popen[str]) -> int:
        """The process of Snakemake."""
        (found,) = processes.heads()
        return found

    def jobs(self) -> list[int]:
        """The processes of the jobs."""
        return processes.jobs()

    def run(self, *stage: str) -> subprocess.CompletedProcess[str]:
        """The same command to its end; in forked processes, which nothing disturbs."""
        return StudyFolder(self.folder).snakemake(*stage)

    def finish(self, *stage: str) -> str:
        """The same, which must end well."""
        done = self.run(*stage)
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout


class InstalledStudy(ForkedStudy):
    """Snakemake as a person runs it; jobs are the installed command."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.words = ["snakemake"]
        self.environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}

    def start_and_hold(self, stage: str) -> subprocess.Popen[str]:
        head = self.start(stage)
        wait(self.jobs, head)
        for job in self.jobs():
            os.kill(job, signal.SIGSTOP)
        return head

    def release(self) -> None:
        for job in self.jobs():
            os.kill(job, signal.SIGCONT)

    def head(self, started: subprocess.Popen[str]) -> int:
        return started.pid

    def jobs(self) -> list[int]:
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


@pytest.fixture(params=[ForkedStudy, pytest.param(InstalledStudy, marks=pytest.mark.slow)])
def study(fresh: Any, request: pytest.FixtureRequest) -> Iterator[ForkedStudy]:
    """The tiny study, whose donor is fetched; whatever of it is left running is killed in the end."""
    fresh.config(donor={"source": "models/long"})
    made: ForkedStudy = request.param(fresh.folder)
    yield made
    for job in made.jobs():
        with suppress(ProcessLookupError):
            os.kill(job, signal.SIGKILL)


@pytest.mark.slow  # in forked processes: test_interrupted_often.py
@pytest.mark.parametrize("study", [InstalledStudy], indirect=True)
def test_ctrl_c_when_a_job_has_just_published_its_output(study: InstalledStudy) -> None:
    study.finish("models")
    head = study.start("adapters")
    adapter = study.folder / "data/tiny/adapters/s1/r1/contextgraft.json"
    wait(adapter.exists, head)
    os.killpg(head.pid, signal.SIGINT)  # as a terminal does
    head.wait(SECONDS)
    study.finish("adapters")
    assert adapter.exists()


def test_a_killed_head_is_followed_by_the_same_command_though_its_job_runs_on(study: ForkedStudy) -> None:
    head = study.start_and_hold(ONE_JOB)
    left, process = study.jobs(), study.head(head)
    assert left
    os.kill(process, signal.SIGKILL)
    head.wait(SECONDS)
    assert json.loads((study.folder / LOCK).read_text())["process"] == process
    output = study.finish(ONE_JOB)
    assert "of a killed run of this study" in output
    assert not set(left) & set(study.jobs())
    assert (study.folder / LOCK).read_text() == ""


@pytest.mark.slow
def test_a_living_head_is_never_displaced(study: ForkedStudy) -> None:
    head = study.start_and_hold(ONE_JOB)
    process = study.head(head)
    second = study.run(ONE_JOB)
    assert second.returncode == 1
    assert f"another run of this study is alive: {os.uname().nodename}, process {process}" in second.stdout
    assert "Traceback" not in second.stdout
    study.release()
    output, _ = head.communicate(timeout=SECONDS)
    assert head.returncode == 0, output[-6000:]


def test_a_job_that_does_not_end_when_it_is_told_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "PATIENCE", 0.3)
    environment = os.environ | {orphans.MARK: str(tmp_path / "a.lock")}
    job = subprocess.Popen(["sleep", "600"], env=environment)
    job.send_signal(signal.SIGSTOP)
    ended = threading.Thread(target=job.wait)
    ended.start()
    assert orphans.end_processes(tmp_path / "a.lock") == 1
    ended.join()
    assert job.returncode == -signal.SIGKILL


def test_a_head_on_another_node_may_be_alive(tmp_path: Path) -> None:
    lock = StudyLock(tmp_path / "a.lock")
    lock.path.write_text(json.dumps({"host": "login2", "boot": "other", "process": 7}))
    with pytest.raises(OutputBusy, match=r"login2, process 7 .* may still be alive.*remove this file"):
        lock.acquire()


def test_jobs_do_not_read_options_from_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No record would name them, and no change of them would run a job again; the cache stays where it is."""
    monkeypatch.setenv(orphans.MARK, "of another study")
    for name in ("REFUSAL", "EVALUATE_SEED", "MERGE_ROUNDING", "CACHE"):
        monkeypatch.setenv(f"CONTEXTGRAFT_{name}", "7")
    lock = StudyLock(tmp_path / "a.lock")
    begin_study_run(lock, None)
    lock.release()
    left = {name: value for name, value in os.environ.items() if name.startswith("CONTEXTGRAFT_")}
    assert left == {"CONTEXTGRAFT_CACHE": "7", orphans.MARK: str(lock.path)}
    assert "ignore CONTEXTGRAFT_EVALUATE_SEED, CONTEXTGRAFT_MERGE_ROUNDING, " in capsys.readouterr().err


@pytest.mark.parametrize("left", ["", "{", "[1]", json.dumps({"host": os.uname().nodename, "process": 7})])
def test_what_a_dead_head_of_this_machine_left(tmp_path: Path, left: str) -> None:
    lock = StudyLock(tmp_path / "a.lock")
    lock.path.write_text(left)
    begin_study_run(lock, None)
    with pytest.raises(OutputBusy, match="is alive"):
        StudyLock(lock.path).acquire()
    lock.release()
    assert lock.path.read_text() == ""
