"""Disks that are full, closed or odd: one line, nothing half in place, and a rerun goes on from there."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

JOBS = ("extract", "merge")
NOBODY = 65534


class SmallDisk:
    """A file system of its own in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mount("tmpfs", "size=4k")

    def mount(self, *options: str) -> None:
        """Mount, or mount again with other options."""
        words = ["mount", "-t", "tmpfs", "-o", ",".join(options[1:]), options[0], str(self.path)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"needs the right to mount: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk that can be made small, large or read-only."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("needs mount and root")
    (tmp_path / "disk").mkdir()
    made = SmallDisk(tmp_path / "disk")
    yield made
    subprocess.run(["umount", "--lazy", str(made.path)], check=True)


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_a_full_disk(fire: Any, disk: SmallDisk, name: str, share: float) -> None:
    job, out = fire.jobs[name], disk.path / "out"
    size = sum(len(data) for data in job.expected.values())
    disk.mount("tmpfs", "remount", f"size={int(share * size)}")
    line = fire.run(job, out).complaint()
    assert f" {out}: cannot be written; received No space left on device; make room" in line
    assert not out.exists()
    kept = {str(path) for path in disk.path.rglob(".journal/*.json") if path.name != "job.json"}
    disk.mount("tmpfs", "remount", "size=100m")
    done = fire.run(job, out)
    assert done.status == 0, done.stderr
    assert fire.contents(out) == job.expected
    assert not done.written & kept, "what was done before the disk was full is done again"
    assert kept or share < 0.5
    assert list(disk.path.iterdir()) == [out]


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("file_bytes", [500, 5000, 12_000])
def test_a_bound_on_files(fire: Any, tmp_path: Path, name: str, file_bytes: int) -> None:
    job, out = fire.jobs[name], tmp_path / "out"
    bounded = fire.run(job, out, file_bytes=file_bytes)
    assert "cannot be written; received File too large" in bounded.complaint()
    assert not out.exists()
    assert fire.run(job, out).status == 0
    assert fire.contents(out) == job.expected


@pytest.mark.parametrize("name", JOBS)
def test_a_disk_that_is_read_only(fire: Any, disk: SmallDisk, name: str) -> None:
    disk.mount("tmpfs", "remount", "ro", "size=1m")
    for out in (disk.path / "out", disk.path / "deep" / "out"):
        assert "Read-only file system" in fire.run(fire.jobs[name], out).complaint()


@pytest.fixture
def commons(fire: Any) -> Iterator[Path]:
    """A folder that others may enter, with copies of the world, for runs that are not root's."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    for name in ("base", "donor", "target"):
        shutil.copytree(fire.root / name, path / name)
    shutil.copytree(fire.adapters / "r4", path / "adapter")
    for file in path.rglob("*.*"):
        file.chmod(0o644)
    yield path
    for folder in (path, *path.iterdir()):
        folder.chmod(0o755)
    shutil.rmtree(path)


@pytest.fixture
def user() -> dict[str, int]:
    """The order that makes a run subject to permissions."""
    return {"uid": NOBODY} if os.geteuid() == 0 else {}


def merging(commons: Path, out: Path) -> list[str]:
    models = ["--adapter", str(commons / "adapter"), "--target", str(commons / "target")]
    return ["merge", *models, "--out", str(out), "--threads", "1"]


def test_a_folder_that_others_own(nursery: Any, commons: Path, user: dict[str, int]) -> None:
    (commons / "mine").mkdir()
    (commons / "mine").chmod(0o555)
    line = nursery.run(merging(commons, commons / "mine" / "out"), **user).complaint()
    assert "out: cannot be written; received Permission denied" in line
    assert not list((commons / "mine").iterdir())


@pytest.mark.parametrize(
    "name", ["target/config.json", "target/model-00002-of-00003.safetensors", "adapter/adapter_config.json"]
)
def test_inputs_that_others_own(nursery: Any, commons: Path, user: dict[str, int], name: str) -> None:
    (commons / "room").mkdir()
    (commons / "room").chmod(0o777)
    (commons / name).chmod(0)
    line = nursery.run(merging(commons, commons / "room" / "out"), **user).complaint()
    assert f"{name}: cannot be read; received Permission denied" in line
    assert not list((commons / "room").iterdir())


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (Path.touch, "already exists|File exists|Not a directory"),
    "a pipe": (os.mkfifo, "already exists|File exists|Not a directory"),
    "a link to nothing": (lambda path: path.symlink_to("absent"), "already exists|File exists"),
    "a link to a folder": (lambda path: path.symlink_to("."), "already exists|File exists"),
    "a name too long": (lambda path: None, "File name too long"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_places_that_are_no_folders(fire: Any, tmp_path: Path, name: str) -> None:
    make, words = PLACES[name]
    place = tmp_path / "place"
    place.mkdir()
    make(place / "out")
    before = sorted(tmp_path.rglob("*"))
    out = place / ("x" * 300 if "too long" in name else "out")
    line = fire.run(fire.jobs["merge"], out).complaint()
    assert any(word in line for word in words.split("|")), line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("out", ["/", "/proc/out", "/dev/null", "/dev/null/out"])
@pytest.mark.parametrize("name", JOBS)
def test_places_of_the_system(fire: Any, name: str, out: str) -> None:
    assert f" {out}: " in fire.run(fire.jobs[name], Path(out)).complaint()
