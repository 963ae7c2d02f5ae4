"""A study that is interrupted, and continued by the same command: bytes of an undisturbed one."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from ..command_server import PAUSE, command_server
from .conftest import ROOT, StudyFolder, environment
from .processes import heads, jobs

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
RECEIVERS = ("head", "all", "job")
MOMENTS = ("time", "before", "after")  # a random time; before or after a job renames its output
ARGUMENTS = ("--snakefile", str(ROOT / "Snakefile"), "--cores", "2", "--configfile", "config/config.yaml")
SECONDS = 600
LONGEST = 4  # seconds from the start of Snakemake to a random time


@dataclass(frozen=True)
class Interruption:
    """What is sent to whom, and when."""

    number: signal.Signals
    receiver: str
    moment: str


@dataclass(frozen=True)
class Runner:
    """Runs the study of a folder by forked processes, and interrupts them; `mark`: see PAUSE."""

    mark: Path

    def start(self, folder: Path, targets: Sequence[str]) -> subprocess.Popen[str]:
        """The head, whose process is `heads()`."""
        return subprocess.Popen(
            [command_server("snakemake").command, *targets, *ARGUMENTS],
            cwd=folder, env=environment() | {PAUSE: str(self.mark)}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def interrupted(
        self, folder: Path, chosen: Interruption, after: float = 0, targets: Sequence[str] = ()
    ) -> tuple[int, str]:
        """Exit code and output of a run that was interrupted, or that ended before."""
        head = self.start(folder, targets)
        self._wait(head, heads)
        time.sleep(after)
        if chosen.moment != "time":
            self.mark.write_text(chosen.moment)
            self._wait(head, lambda: not self.mark.exists())
            self.mark.unlink(missing_ok=True)
        elif chosen.receiver == "job":
            self._wait(head, jobs)
        receivers: dict[str, Callable[[], list[int]]] = {
            "head": heads,
            "job": jobs,
            "all": lambda: [*heads(), *jobs(), *scripts(folder)],
        }
        for process in receivers[chosen.receiver]():
            with suppress(ProcessLookupError):
                os.kill(process, chosen.number)
        output, _ = head.communicate(timeout=SECONDS)
        return head.returncode, output

    def _wait(self, head: subprocess.Popen[str], event: Callable[[], object]) -> None:
        deadline = time.monotonic() + SECONDS
        while not event() and head.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)


def scripts(folder: Path) -> list[int]:
    """The shells of the jobs, and what they wait for."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "cwd").readlink() == folder and b"contextgraft" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def results(folder: Path) -> dict[str, bytes]:
    """Every file that the study made, but for logs and measured times."""
    made = [path for top in ("data", "results") for path in (folder / top).rglob("*") if path.is_file()]
    relative = {path.relative_to(folder): path for path in made}
    return {
        str(name): path.read_bytes()
        for name, path in relative.items()
        if name.parts[2] not in ("logs", "benchmarks")
    }


@pytest.mark.slow
def test_ctrl_c_when_a_job_has_just_published_its_output(fresh: StudyFolder, tmp_path: Path) -> None:
    model = "data/tiny/models/base/contextgraft.json"
    chosen = Interruption(signal.SIGINT, "all", "after")
    code, output = Runner(tmp_path / "mark").interrupted(fresh.folder, chosen, targets=[model])
    assert code, output
    again = fresh.snakemake(model)
    assert again.returncode == 0, again.stdout[-6000:]
    assert (fresh.folder / model).exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_study_interrupted_thirty_times(finished: StudyFolder, tmp_path: Path) -> None:
    """Every signal, to the head, to all and to a job, at random times and around publishing."""
    draw, runner = random.Random(17), Runner(tmp_path / "mark")
    expected = results(finished.folder)
    plan = [Interruption(*words) for words in product(SIGNALS, RECEIVERS, MOMENTS)]
    draw.shuffle(plan)
    plan += draw.choices(plan, k=3)
    chain = 0
    while plan:
        chain += 1
        folder = tmp_path / str(chain)
        for name in ("config", "models"):
            shutil.copytree(finished.folder / name, folder / name)
        code = 1
        while plan and code:
            chosen = plan.pop()
            code, output = runner.interrupted(folder, chosen, draw.uniform(0, LONGEST))
            assert "IncompleteFilesException" not in output, (chosen, output)
            # Snakemake itself shows one for a signal that comes before its own handlers
            assert not any(
                "Traceback" in log.read_text() for log in folder.glob("results/tiny/logs/**/*.log")
            )
        again = StudyFolder(folder).snakemake()
        assert again.returncode == 0, again.stdout[-6000:]
        assert results(folder) == expected
