"""A real Slurm on loopback, and the tiny study in a folder that looks like a clone."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..command_server import command_server
from ..workflow.conftest import StudyFolder

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
HEAD = Path(__file__).with_name("head.py")
CLONE = "Snakefile", "workflow", "envs", "profiles", "slurm", "scripts"  # what a clone has at its root
ARGUMENTS = (
    *("--configfile", "config/config.yaml"),
    *("--default-resources", "slurm_account=graft", "slurm_partition=gpu"),
    *("--slurm-init-seconds-before-status-checks", "1"),
    *("--latency-wait", "10"),
)


def wait_for(what: str, done: Callable[[], Any], seconds: float = 600) -> Any:
    """Poll until `done` gives something true; fail with `what` otherwise."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := done():
            return found
        time.sleep(0.2)
    pytest.fail(f"not seen within {seconds:g} s: {what}")


class Slurm:
    """A running cluster: its commands, and what a test does to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = (folder / "bin", Path(sys.executable).parent, os.environ["PATH"])
        plain = {
            key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SNAKEMAKE"))
        }
        self.environment = {
            **plain,
            "PATH": os.pathsep.join(map(str, path)),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *command: str) -> str:
        """What a Slurm command prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def node(self, action: str, name: str) -> None:
        """Kill or start a node."""
        subprocess.run([SCRIPTS / "slurm-node.sh", action, name, self.folder], check=True)

    def jobs(self, folder: Path, rule: str, *states: str) -> list[str]:
        """Ids of the jobs that a folder's study has, or had, of a rule, oldest first; of some states only."""
        chosen = "--states=" + (",".join(states) or "all")
        rows = (
            row.split("|", 2) for row in self.run("squeue", "-h", "--format=%i|%Z|%k", chosen).splitlines()
        )
        first = f"rule_{rule}", f"rule_{rule}_wildcards_"
        return sorted(
            (
                job
                for job, place, comment in rows
                if Path(place) == folder and (comment == first[0] or comment.startswith(first[1]))
            ),
            key=int,
        )

    def shown(self, job: str) -> dict[str, str]:
        """`scontrol show job` as pairs."""
        words = self.run("scontrol", "show", "job", "--oneliner", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)


class Clone(StudyFolder):
    """The tiny study in a folder that looks like a clone; its command is `snakemake --profile slurm`."""

    folder: Path
    python = sys.executable  # of the jobs

    def __init__(self, folder: Path, slurm: Slurm) -> None:
        super().__init__(folder)
        self.slurm = slurm
        self.log = folder / "head.log"
        self.environment = slurm.environment

    def write(self) -> None:
        """The study, and links to what the repository has."""
        super().write()
        self.config(cluster={"gpus_per_node": 4})
        for name in CLONE:
            (self.folder / name).symlink_to(ROOT / name)

    def train_longer(self) -> None:
        """Let the training take a few seconds."""
        recipe = self.folder / "config/tiny/donor.yaml"
        text = recipe.read_text()
        assert "steps: 1" in text
        recipe.write_text(text.replace("steps: 1", "steps: 150"))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """The head process, in the background; what it says goes to its log."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, HEAD, self.python, "--profile", "slurm", *arguments, *ARGUMENTS],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def end(self, head: subprocess.Popen[bytes], seconds: float = 1200) -> str:
        """Wait for a head process that must end well; what it said."""
        code = head.wait(seconds)
        said = self.log.read_text()
        assert code == 0, said[-8000:]
        return said

    def run(self, *arguments: str) -> str:
        """A whole run that must end well."""
        return self.end(self.start(*arguments))

    def training(self) -> str:
        """The donor's job, once its training is under way."""
        log = self.folder / "results/tiny/logs/train/donor-s1.log"
        wait_for("a training under way", lambda: log.exists() and "stage" in log.read_text())
        (job,) = self.jobs("train", "RUNNING")
        return job

    def jobs(self, rule: str, *states: str) -> list[str]:
        """Ids of this study's jobs of a rule, oldest first."""
        return self.slurm.jobs(self.folder, rule, *states)

    def results(self) -> dict[str, str]:
        """Digest of every file that the study made, but for logs and measured times."""
        made = [
            path for top in ("data", "results") for path in (self.folder / top).rglob("*") if path.is_file()
        ]
        relative = {path.relative_to(self.folder): path for path in made}
        return {
            str(name): hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in sorted(relative.items())
            if name.parts[2] not in ("logs", "benchmarks")
        }


class QuickClone(Clone):
    """The same; the jobs of Slurm start their programs in forked processes, which spares each its imports."""

    def __init__(self, folder: Path, slurm: Slurm) -> None:
        super().__init__(folder, slurm)
        self.python = str(command_server("snakemake").python)
        path = command_server("contextgraft").bin, slurm.environment["PATH"]
        self.environment = {**slurm.environment, "PATH": os.pathsep.join(map(str, path))}


def script(name: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """One of our scripts for a cluster."""
    command = [SCRIPTS / name, *arguments]
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """Slurm, installed if need be, up for all tests of this folder; stopped by process id at the end."""
    installed = script("slurm-install.sh")
    if installed.returncode:
        pytest.skip(f"no Slurm can be installed here: {installed.stderr.strip()}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: sockets are made in it
    folder.chmod(0o755)
    started = script("slurm-up.sh", folder)
    assert started.returncode == 0, started.stderr
    try:
        yield Slurm(folder)
    finally:
        subprocess.run([SCRIPTS / "slurm-down.sh", folder], check=True)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, slurm: Slurm) -> Clone:
    """The tiny study after a whole run through the profile in which nothing went wrong."""
    place = Clone(tmp_path_factory.mktemp("undisturbed"), slurm)
    place.write()
    place.train_longer()
    place.run()
    return place


@pytest.fixture
def clone(tmp_path: Path, slurm: Slurm) -> Clone:
    """The tiny study before any run, with a training that can be disturbed."""
    place = Clone(tmp_path, slurm)
    place.write()
    place.train_longer()
    return place


@pytest.fixture
def quick(tmp_path: Path, slurm: Slurm) -> QuickClone:
    """The tiny study with one rank before any run; nothing disturbs it."""
    place = QuickClone(tmp_path, slurm)
    place.write()
    place.config(cluster={"gpus_per_node": 4}, ranks=[4])
    return place
