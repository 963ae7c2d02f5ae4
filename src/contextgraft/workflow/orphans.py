"""Jobs of a study whose Snakemake process was killed: they are ended before the next run starts them anew.

Every step resumes after a kill, so ending a job costs little; waiting for it would cost its whole result,
because Snakemake runs a job again whose end it did not see.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from contextgraft.workflow.job_environment import remove_option_variables
from contextgraft.workflow.study_lock import StudyLock

MARK = "CONTEXTGRAFT_STUDY_LOCK"  # environment variable of the jobs: the lock file of their study
PATIENCE = 10  # seconds between SIGTERM and SIGKILL


def begin_study_run(lock: StudyLock, slurm_run: str | None) -> None:
    """Lock a study and end the jobs that a killed run of it left; `slurm_run` names this run's jobs in Slurm.

    The jobs of this run do not see variables of the shell that hold options of commands. Raises
    OutputBusy if another run of the study is alive.
    """
    killed = lock.acquire()
    count = (cancel_slurm_jobs(killed) if killed else 0) + end_processes(lock.path)
    if count:
        print(f"contextgraft: ended {count} processes or jobs of a killed run of this study", file=sys.stderr)
    lock.sign(slurm_run)
    if ignored := remove_option_variables():
        print(f"contextgraft: the study's jobs ignore {', '.join(ignored)}", file=sys.stderr)
    os.environ[MARK] = str(lock.path.absolute())


def end_processes(lock: Path) -> int:
    """End the processes on this machine that carry the mark; returns how many there were.

    Only the holder of the lock may call this, before it starts a job.
    """
    count = 0
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + PATIENCE
        while (processes := list(_marked(lock))) and time.monotonic() < deadline:
            count = max(count, len(processes))
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, number)
            time.sleep(0.1)
    return count


def _marked(lock: Path) -> Iterator[int]:
    words = f"{MARK}={lock.absolute()}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
            state = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:  # it has ended, or is another user's
            continue
        if words in environment.split(b"\0") and state != b"Z" and int(entry.name) != os.getpid():
            yield int(entry.name)


def cancel_slurm_jobs(run: str) -> int:
    """Cancel the jobs that are named `run` in Slurm's queue and wait until they ended; returns how many."""
    queued = _queued(run)
    if queued:
        subprocess.run(["scancel", *queued], check=True)
    while _queued(run):  # a job that is ending may still write
        time.sleep(1)
    return len(queued)


def _queued(run: str) -> list[str]:
    words = ["squeue", "--noheader", "--me", f"--name={run}", "--format=%i"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
