"""Copying bytes: by the kernel, or by hand where the kernel will not."""

import os
from pathlib import Path
from queue import Queue

import pytest

from contextgraft.checkpoint import file_io


def refuse(*args: object) -> int:
    raise OSError("not on this file system")


@pytest.mark.parametrize("kernel", [True, False])
def test_ranges_land_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool) -> None:
    if not kernel:
        monkeypatch.setattr(os, "copy_file_range", refuse)
        monkeypatch.setattr(file_io, "CHUNK", 7)
    data = bytes(range(200))
    (tmp_path / "a").write_bytes(data)
    with (tmp_path / "a").open("rb") as old, (tmp_path / "b").open("wb") as new:
        file_io.copy_range(old.fileno(), new.fileno(), 20, 200)
        file_io.copy_range(old.fileno(), new.fileno(), 0, 20)
        with pytest.raises(EOFError):
            file_io.copy_range(old.fileno(), new.fileno(), 190, 201)
    assert (tmp_path / "b").read_bytes() == data


def test_what_is_expected_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda handle, start, size, advice: calls.append((start, size)))
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(bytes(100))
    file_io.expect_files(paths, 150)
    assert calls == [(0, 100), (0, 50)]
    with pytest.raises(FileNotFoundError):
        file_io.expect_files([tmp_path / "d"], 1)


def test_weights_of_two_models_are_read_ahead_by_the_names_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("donor", "base"):
        (tmp_path / folder).mkdir()
        for name in ("model-2.safetensors", "model-1.safetensors", "config.json"):
            (tmp_path / folder / name).write_bytes(b"")
    requested = Queue[list[str]]()
    monkeypatch.setattr(
        file_io,
        "expect_files",
        lambda paths, most: requested.put([f"{path.parent.name}/{path.name}" for path in paths]),
    )
    file_io.read_ahead(tmp_path / "donor", tmp_path / "base", tmp_path / "missing")
    assert requested.get(timeout=120) == [
        "base/model-1.safetensors", "donor/model-1.safetensors", "base/model-2.safetensors",
        "donor/model-2.safetensors",
    ]  # fmt: skip
