"""Disks that are full, closed or odd: one line, nothing half in place, and a rerun goes on from there."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

JOBS = ("extract", "merge")
NOBODY = 65534


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_a_full_disk(scenario: Any, disk: Any, name: str, share: float) -> None:
    job, out = scenario.jobs[name], disk.path / "out"
    size = sum(len(data) for data in job.expected.values())
    disk.mount("tmpfs", "remount", f"size={int(share * size)}")
    line = scenario.run(job, out).error_line()
    assert f" {out}: cannot be written; received No space left on device; free disk space" in line
    assert not out.exists()
    kept = {str(path) for path in disk.path.rglob(".journal/*.json") if path.name != "job.json"}
    disk.mount("tmpfs", "remount", "size=100m")
    done = scenario.run(job, out)
    assert done.status == 0, done.stderr
    assert scenario.contents(out) == job.expected
    assert not done.written & kept, "what was done before the disk was full is done again"
    assert kept or share < 0.5
    assert list(disk.path.iterdir()) == [out]


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("file_bytes", [500, 5000, 12_000])
def test_a_bound_on_files(scenario: Any, tmp_path: Path, name: str, file_bytes: int) -> None:
    job, out = scenario.jobs[name], tmp_path / "out"
    bounded = scenario.run(job, out, file_bytes=file_bytes)
    assert "cannot be written; received File too large" in bounded.error_line()
    assert not out.exists()
    assert scenario.run(job, out).status == 0
    assert scenario.contents(out) == job.expected


@pytest.mark.parametrize("name", JOBS)
def test_a_disk_that_is_read_only(scenario: Any, disk: Any, name: str) -> None:
    disk.mount("tmpfs", "remount", "ro", "size=1m")
    for out in (disk.path / "out", disk.path / "deep" / "out"):
        assert "Read-only file system" in scenario.run(scenario.jobs[name], out).error_line()


@pytest.fixture
def commons(scenario: Any) -> Iterator[Path]:
    """A folder that others may enter, with copies of the world, for runs that are not root's."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    for name in ("base", "donor", "target"):
        shutil.copytree(scenario.root / name, path / name)
    shutil.copytree(scenario.adapters / "r4", path / "adapter")
    for file in path.rglob("*.*"):
        file.chmod(0o644)
    yield path
    for folder in (path, *path.iterdir()):
        folder.chmod(0o755)
    shutil.rmtree(path)


@pytest.fixture
def user() -> dict[str, int]:
    """The options of a request that make a run subject to permissions."""
    return {"uid": NOBODY} if os.geteuid() == 0 else {}


def merging(commons: Path, out: Path) -> list[str]:
    models = ["--adapter", str(commons / "adapter"), "--target", str(commons / "target")]
    return ["merge", *models, "--out", str(out), "--threads", "1"]


def test_a_folder_that_others_own(fork_server: Any, commons: Path, user: dict[str, int]) -> None:
    (commons / "mine").mkdir()
    (commons / "mine").chmod(0o555)
    line = fork_server.run(merging(commons, commons / "mine" / "out"), **user).error_line()
    assert "out: cannot be written; received Permission denied" in line
    assert not list((commons / "mine").iterdir())


@pytest.mark.parametrize(
    "name", ["target/config.json", "target/model-00002-of-00003.safetensors", "adapter/adapter_config.json"]
)
def test_inputs_that_others_own(fork_server: Any, commons: Path, user: dict[str, int], name: str) -> None:
    (commons / "writable").mkdir()
    (commons / "writable").chmod(0o777)
    (commons / name).chmod(0)
    line = fork_server.run(merging(commons, commons / "writable" / "out"), **user).error_line()
    assert f"{name}: cannot be read; received Permission denied" in line
    assert not list((commons / "writable").iterdir())


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (Path.touch, "already exists|File exists|Not a directory"),
    "a pipe": (os.mkfifo, "already exists|File exists|Not a directory"),
    "a link to nothing": (lambda path: path.symlink_to("absent"), "already exists|File exists"),
    "a link to a folder": (lambda path: path.symlink_to("."), "already exists|File exists"),
    "a name too long": (lambda path: None, "File name too long"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_places_that_are_no_folders(scenario: Any, tmp_path: Path, name: str) -> None:
    make, words = PLACES[name]
    place = tmp_path / "place"
    place.mkdir()
    make(place / "out")
    before = sorted(tmp_path.rglob("*"))
    out = place / ("x" * 300 if "too long" in name else "out")
    line = scenario.run(scenario.jobs["merge"], out).error_line()
    assert any(word in line for word in words.split("|")), line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("out", ["/", "/proc/out", "/dev/null", "/dev/null/out"])
@pytest.mark.parametrize("name", JOBS)
def test_places_of_the_system(scenario: Any, name: str, out: str) -> None:
    assert f" {out}: " in scenario.run(scenario.jobs[name], Path(out)).error_line()
