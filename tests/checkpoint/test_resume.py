"""What an unfinished job has done: kept for the same job, dropped for another, gone when all is well."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from contextgraft.checkpoint.atomic import publish, work_directory
from contextgraft.checkpoint.input_files import InputFiles
from contextgraft.checkpoint.resume import BUILT, ResumeLog, publish_folders
from contextgraft.errors import CheckpointError, OutputError


def interrupted(work: Path, job: dict[str, object], error: type[BaseException] = KeyboardInterrupt) -> None:
    def run() -> None:
        with ResumeLog(work, job) as journal:
            journal.put("../../step", {"n": 1})
            (work / "half").touch()
            raise error("x")

    with pytest.raises(error):
        run()


def test_the_same_job_finds_its_records(tmp_path: Path) -> None:
    interrupted(tmp_path, {"a": (1, 2)})
    with ResumeLog(tmp_path, {"a": [1, 2]}) as journal:
        assert journal.get("../../step") == {"n": 1}
        assert journal.get("other") is None
    assert [path.name for path in tmp_path.iterdir()] == ["half"]


def test_another_job_begins_anew(tmp_path: Path) -> None:
    interrupted(tmp_path, {"a": 1})
    with ResumeLog(tmp_path, {"a": 2}) as journal:
        assert journal.get("../../step") is None
        assert not (tmp_path / "half").exists()


def test_another_job_voids_the_records_before_it_removes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it clears the place, it must not leave records of data that is gone."""
    interrupted(tmp_path, {"a": 1})
    monkeypatch.setattr(shutil, "rmtree", no_time)
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([tmp_path / ".journal"]))
    with pytest.raises(TimeoutError):
        ResumeLog(tmp_path, {"a": 2}).__enter__()
    assert not (tmp_path / ".journal" / "job.json").exists()


def no_time(path: Path) -> None:
    raise TimeoutError


def test_bad_inputs_leave_nothing(tmp_path: Path) -> None:
    interrupted(tmp_path, {"a": 1}, CheckpointError)
    assert list(tmp_path.iterdir()) == []


def test_nothing_on_record_leaves_nothing(tmp_path: Path) -> None:
    def run() -> None:
        with ResumeLog(tmp_path, {}):
            (tmp_path / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert list(tmp_path.iterdir()) == []


def file_instead(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


def folder_instead(file: Path) -> None:
    file.unlink()
    file.mkdir()


FOREIGN: dict[str, Callable[[Path], object]] = {
    "the log is a file": file_instead,
    "the job is a folder": lambda log: folder_instead(log / "job.json"),
    "a record is a folder": lambda log: (log / ("0" * 32 + ".json")).mkdir(),
    "a pipe": lambda log: os.mkfifo(log / "x.json"),
    "a link": lambda log: (log / "x.json").symlink_to("/dev/zero"),
    "a deep job": lambda log: (log / "job.json").write_text("[" * 100_000),
    "a job that is a list": lambda log: (log / "job.json").write_text("[]"),
}


@pytest.mark.parametrize("spoil", FOREIGN.values(), ids=FOREIGN)
def test_a_log_that_no_job_wrote_begins_anew(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    interrupted(tmp_path, {"a": 1})
    spoil(tmp_path / ".journal")
    with ResumeLog(tmp_path, {"a": 1}) as log:
        assert log.get("../../step") is None
        log.put("../../step", {"n": 2})
        assert log.get("../../step") == {"n": 2}
    assert list(tmp_path.iterdir()) == []


def test_records_cut_by_a_loss_of_power_are_none(tmp_path: Path) -> None:
    interrupted(tmp_path, {"a": 1})
    with ResumeLog(tmp_path, {"a": 1}) as journal:
        journal.put("other", {"n": 2})
        journal.file("../../step", ".json").write_text('{"n":')
        assert (journal.get("../../step"), journal.get("other")) == (None, {"n": 2})
        (journal.folder / "job.json").write_bytes(b"")
        again = ResumeLog(tmp_path, {"a": 1}).__enter__()
        assert again.get("other") is None


CHANGES: dict[str, Callable[[Path], object]] = {
    "time": lambda path: os.utime(path, ns=(1, 1)),
    "size": lambda path: path.write_text("longer"),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("when", ["put", "end", "error"])
def test_inputs_that_change_are_told_and_leave_nothing(tmp_path: Path, when: str, change: str) -> None:
    source, work = tmp_path / "input", tmp_path / "work"
    source.write_text("x")
    work.mkdir()

    def run() -> None:
        with ResumeLog(work, {"a": 1, "input": InputFiles([source])}) as journal:
            journal.put("before", {})
            CHANGES[change](source)
            if when == "put":
                journal.put("after", {})
            if when == "error":
                raise EOFError("file ends")

    with pytest.raises(CheckpointError, match="input: was changed while it was read"):
        run()
    assert list(work.iterdir()) == []


def test_records_outlive_a_kill_before_the_work_is_in_its_place(tmp_path: Path) -> None:
    """What a kill leaves between the end of the journal and the rename."""
    with work_directory(tmp_path / "out") as work, ResumeLog(work, {"a": 1}) as journal:
        journal.put("step", {"n": 1})
        (work / "result").touch()
        kept = {path.name: path.read_bytes() for path in journal.folder.iterdir()}
    aside = tmp_path / ".out.journal"
    assert not aside.exists()
    aside.mkdir()
    for name, data in kept.items():
        (aside / name).write_bytes(data)
    with publish(tmp_path / "out") as work, ResumeLog(work, {"a": 1}) as journal:
        assert journal.get("step") == {"n": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    aside.mkdir()
    with pytest.raises(OutputError, match="already exists"), publish(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_keys_never_leave_the_folder(tmp_path: Path) -> None:
    with ResumeLog(tmp_path, {}) as journal:
        assert journal.file("../../../etc/x", ".json").parent == tmp_path / ".journal"


@pytest.mark.parametrize("lost", ["a/manifest", "b/manifest", "a", None])
def test_folders_that_lost_a_file_between_two_renames_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str | None
) -> None:
    out, made = tmp_path / "out", []

    def run() -> None:
        with publish_folders(out, ["a", "b"], {}, replace=True) as log:
            if log.get(BUILT) is None:
                made.append(1)
                for name in ("a", "b"):
                    (log.work / name).mkdir()
                    (log.work / name / "model.safetensors").touch()
                    (log.work / name / "manifest").touch()
                log.put(BUILT, {})

    monkeypatch.setattr("contextgraft.checkpoint.resume.detach_log", no_time)
    with pytest.raises(TimeoutError):
        run()
    monkeypatch.undo()
    if lost is not None and (out / lost).is_dir():
        shutil.rmtree(out / lost)
    elif lost is not None:
        (out / lost).unlink()
    run()
    assert len(made) == (1 if lost is None else 2)
    assert {path.name for path in tmp_path.rglob("manifest")} == {"manifest"}
    assert len(list(out.rglob("*"))) == 6
