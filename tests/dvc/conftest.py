"""The tiny study in a git repository with our dvc.yaml, by a user whom write protection stops, not root."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..command_server import CommandServer
from ..workflow.conftest import StudyFolder, finished_study, job_counts

ROOT = Path(__file__).parents[2]
OURS = "Snakefile", "workflow", "envs", "scripts", "profiles", "local", "dvc.yaml", ".dvcignore", ".gitignore"
NO_RIGHTS = "setpriv", "--bounding-set=-all", "--inh-caps=-all"  # root, but modes of files hold for it


class Home:
    """A folder of an ordinary user, with all that the user's processes write in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        name = {
            f"GIT_{role}_{part}": f"tester{end}"
            for role in ("AUTHOR", "COMMITTER")
            for part, end in (("NAME", ""), ("EMAIL", "@localhost"))
        }
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("SNAKEMAKE", "DVC"))},
            **name,
            "PATH": path,
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / ".cache"),
            "TMPDIR": str(folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder / ".dvc-state"),
        }
        servers = {
            program: CommandServer(program, self.environment, self.rights) for program in ("snakemake", "dvc")
        }
        self.snakemake = servers["snakemake"].command
        self.environment["PATH"] = os.pathsep.join([str(servers["dvc"].bin), self.environment["PATH"]])

    @property
    def rights(self) -> tuple[str, ...]:
        """The words before a command that take root's rights away."""
        return NO_RIGHTS if os.geteuid() == 0 else ()

    def run(self, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """A command of the user; its two streams come joined."""
        return subprocess.run(
            [*self.rights, *command],
            cwd=cwd,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


class Repository:
    """A clone with the tiny study in it."""

    def __init__(self, home: Home, folder: Path) -> None:
        self.home = home
        self.folder = folder

    def run(self, *command: str) -> str:
        """A command that must end well; what it says."""
        done = self.home.run(*command, cwd=self.folder)
        assert done.returncode == 0, f"{command}: {done.stdout[-6000:]}"
        return done.stdout

    def refused(self, *command: str) -> str:
        """A command that must end with code 2; what it says."""
        done = self.home.run(*command, cwd=self.folder)
        assert done.returncode == 2, f"{command}: {done.returncode}: {done.stdout[-6000:]}"
        return done.stdout

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text in a file."""
        path = self.folder / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def snakemake(self, *arguments: str) -> str:
        """Run the study; what Snakemake says."""
        done = self.home.run(str(self.home.snakemake), "--cores", "2", *arguments, cwd=self.folder)
        assert done.returncode == 0, f"{arguments}: {done.stdout[-6000:]}"
        return done.stdout

    def planned(self) -> dict[str, int]:
        """Jobs by rule that Snakemake would run."""
        return job_counts(self.snakemake("--dry-run"))

    def version(self, message: str) -> None:
        """What a person does after a run, as docs/versions.md has it."""
        self.run("scripts/version.sh")
        self.run("git", "commit", "--quiet", "--message", message)

    def clone(self, name: str) -> "Repository":
        """A clone elsewhere, without anything that DVC keeps."""
        other = Repository(self.home, self.home.folder / name)
        self.run("git", "clone", "--quiet", str(self.folder), str(other.folder))
        return other

    def pull(self) -> None:
        """What a person does in a clone, as docs/versions.md has it."""
        self.run("dvc", "pull")
        self.run("scripts/sync.sh")

    def write(self, finished: StudyFolder) -> None:
        """A finished study and our files, as a repository with one commit and a DVC remote next to it."""
        self.folder.mkdir()
        subprocess.run(["cp", "-a", f"{finished.folder}/.", self.folder], check=True)
        for name in OURS:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, self.folder / name)
        (self.folder / ".dvc").mkdir()
        for name in (".gitignore", "config"):
            shutil.copy(ROOT / ".dvc" / name, self.folder / ".dvc" / name)
        self.run("git", "init", "--quiet", "--initial-branch=main")
        self.run("git", "add", ".", ":!models")
        self.run("dvc", "remote", "add", "--default", "store", str(self.home.folder / "store"))
        self.run("git", "add", ".dvc/config")
        self.run("git", "commit", "--quiet", "--message", "A study")

    def summary(self) -> dict[str, Any]:
        """The report's numbers."""
        found: dict[str, Any] = json.loads((self.folder / "results/tiny/report/summary.json").read_text())
        return found


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A folder for all that the tests of this session write."""
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def study(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The study after a run, committed and pushed to a remote in a folder; tests leave it as it is."""
    repository = Repository(home, home.folder / "study")
    repository.write(finished_study(tmp_path_factory.getbasetemp()))
    assert "Nothing to be done" in repository.snakemake()
    repository.version("Run")
    repository.run("dvc", "push")
    return repository


@pytest.fixture
def clone(study: Repository, request: pytest.FixtureRequest) -> Repository:
    """A fresh clone, pulled and synced."""
    other = study.clone(request.node.name)
    other.pull()
    return other
