"""The script that makes the folder of grafts reads the name of the study as YAML, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/grafts-folder.sh"


def run(folder: Path, config: str) -> subprocess.CompletedProcess[str]:
    """The script in a folder with this configuration."""
    (folder / "config").mkdir(parents=True)
    (folder / "config/config.yaml").write_text(config)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    return subprocess.run([SCRIPT], cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "config",
    [
        "study: demo\n",
        'study: "demo" # mine\n',
        "'study': 'demo'\n",
        "{base: x, study: demo}",
        "study:\n  demo\n",
    ],
)
def test_every_spelling_of_yaml(tmp_path: Path, config: str) -> None:
    folder = tmp_path / 'it\'s "a" $(clone)'
    done = run(folder, config)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.relative_to(folder).as_posix() for path in folder.glob("data/*/*")] == ["data/demo/grafts"]


@pytest.mark.parametrize(
    "config", ["", "base: x\n", "study: ../..\n", "study: $(touch x)\n", "study: -p\n", "{"]
)
def test_a_name_that_is_none_makes_no_folder(tmp_path: Path, config: str) -> None:
    done = run(tmp_path, config)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("grafts-folder: expected a name")
    assert [path.name for path in tmp_path.iterdir()] == ["config"]
