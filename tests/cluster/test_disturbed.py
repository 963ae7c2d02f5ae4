"""What happens to jobs on a real cluster, in the middle of a training: it ends in the same bytes.

The disturbed studies run up to the adapters: what follows is computed from these bytes alone.
"""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
STAGE = "adapters"


def test_slurm_makes_the_bytes_that_this_machine_makes_alone(undisturbed: Any, clone: Any) -> None:
    done = clone.snakemake()
    assert done.returncode == 0, done.stdout[-6000:]
    assert clone.results() == undisturbed.results()


def check(clone: Any, undisturbed: Any) -> None:
    """Models and adapters of a disturbed study are those of the undisturbed one, byte for byte."""
    made = clone.results()
    assert "data/tiny/models/donor-s1/contextgraft.json" in made
    assert "data/tiny/adapters/s1/r4/adapter_model.safetensors" in made
    whole = undisturbed.results()
    assert made == {name: whole[name] for name in made}


def test_a_node_that_dies(undisturbed: Any, clone: Any) -> None:
    slurm = clone.slurm
    head = clone.start(STAGE)
    job = clone.training()
    node = slurm.shown(job)["BatchHost"]
    slurm.node("kill", node)
    try:
        clone.end(head)
        check(clone, undisturbed)
        shown = slurm.shown(job)
        assert (shown["Restarts"], shown["JobState"]) == ("1", "COMPLETED")
        assert shown["BatchHost"] != node
    finally:
        slurm.node("start", node)


def test_a_job_that_makes_room_for_another(undisturbed: Any, clone: Any) -> None:
    slurm = clone.slurm
    head = clone.start(STAGE, "--set-resources", "train:slurm_partition=spare")
    job = clone.training()
    urgent = ("--partition=urgent", "--account=graft", "--nodes=2", "--exclusive", "--output=/dev/null")
    slurm.run("sbatch", *urgent, "--wrap=sleep 5")
    clone.end(head)
    check(clone, undisturbed)
    shown = slurm.shown(job)
    assert (shown["Partition"], shown["Restarts"], shown["JobState"]) == ("spare", "1", "COMPLETED")


def test_a_job_over_its_time_comes_again_with_more(undisturbed: Any, clone: Any) -> None:
    slurm = clone.slurm
    head = clone.start(STAGE, "--set-resources", "train:runtime=29*attempt-28")
    clone.training()
    first = clone.jobs("train")[0]
    for process in processes_of(first):  # none where the machine is so busy that its time is already over
        os.kill(process, signal.SIGSTOP)  # so that it takes for ever
    clone.end(head)
    check(clone, undisturbed)
    _, second = clone.jobs("train")
    limits = {job: (slurm.shown(job)["JobState"], slurm.shown(job)["TimeLimit"]) for job in (first, second)}
    assert limits == {first: ("TIMEOUT", "00:01:00"), second: ("COMPLETED", "00:30:00")}


def processes_of(job: str) -> list[int]:
    """Processes of `contextgraft train` in a job of Slurm."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is not ours
            words = (entry / "cmdline").read_bytes().split(b"\0")
            variables = (entry / "environ").read_bytes().split(b"\0")
            if b"--base" in words and f"SLURM_JOB_ID={job}".encode() in variables:
                found.append(int(entry.name))
    return found


def test_a_head_that_dies_and_is_started_again(undisturbed: Any, clone: Any) -> None:
    head = clone.start(STAGE)
    job = clone.training()
    head.kill()
    head.wait()
    for process in processes_of(job):
        os.kill(process, signal.SIGSTOP)  # so that it is still there when the next head comes
    left = subprocess.run(
        [ROOT / "scripts/slurm-orphans.sh"],
        cwd=clone.folder,
        env=clone.slurm.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert left.stdout.split()[0] == job
    clone.run(STAGE)  # cancels the job that is left, and submits it again
    check(clone, undisturbed)
    states = [clone.slurm.shown(one)["JobState"] for one in clone.jobs("train")]
    assert states == ["CANCELLED", "COMPLETED"]
