"""Results appear whole or not at all."""

import errno
import multiprocessing
import os
from pathlib import Path

import pytest

from contextgraft.checkpoint.atomic import publish, publish_file, remove_output, work_directory, write_json
from contextgraft.errors import OutputBusy, OutputError


def test_the_output_appears_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with publish(out) as work:
        (work / "a").write_text("1")
        assert not out.exists()
        assert work.parent == out.parent
    assert (out / "a").read_text() == "1"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_work_is_kept_when_the_block_fails_and_found_again(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def interrupted() -> None:
        with publish(out) as work:
            (work / "a").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not out.exists()
    with publish(out) as again:
        assert (again / "a").read_text() == "1"
    assert (out / "a").read_text() == "1"


def test_an_empty_work_directory_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), publish(tmp_path / "out"):
        raise ValueError("x")
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    with publish(out) as work:  # folders without files are nothing
        (work / "config.json").write_text("1")
    with pytest.raises(OutputError, match="already exists"), publish(out):
        pass
    with publish(out, replace=True) as work:
        (work / "b").write_text("2")
    assert [path.name for path in out.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(OutputError), publish(out / "b", replace=True):
        pass


def _hold(
    out: Path, ready: "multiprocessing.synchronize.Event", go: "multiprocessing.synchronize.Event"
) -> None:
    with publish(out) as work:
        (work / "a").write_text("first")
        ready.set()
        go.wait(600)


def test_a_second_run_says_so_and_the_first_goes_on(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, go = context.Event(), context.Event()
    first = context.Process(target=_hold, args=(tmp_path / "out", ready, go))
    first.start()
    assert ready.wait(600)
    with pytest.raises(OutputBusy, match="another run"), publish(tmp_path / "out"):
        pass
    go.set()
    first.join(600)
    assert first.exitcode == 0
    assert (tmp_path / "out" / "a").read_text() == "first"


def test_a_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, go = context.Event(), context.Event()
    first = context.Process(target=_hold, args=(tmp_path / "out", ready, go))
    first.start()
    assert ready.wait(600)
    first.kill()
    first.join(600)
    with publish(tmp_path / "out") as work:
        assert (work / "a").read_text() == "first"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def failing() -> None:
        with publish_file(path) as temporary:
            temporary.write_text("half")
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        failing()
    assert list(tmp_path.iterdir()) == []
    with publish_file(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"


def test_json_is_sorted_and_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": "é"})
    assert (tmp_path / "x.json").read_bytes() == '{\n  "a": "é",\n  "b": 1\n}\n'.encode()
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "y.json", float("nan"))


def test_places_that_are_no_folders_are_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "link").symlink_to("away")
    (tmp_path / "nothing").symlink_to("absent")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "nothing", "pipe"):
        with pytest.raises(OutputError, match=f"{name}: already exists"), publish(tmp_path / name):
            pass
    with pytest.raises(OutputError, match="name a folder in it"), work_directory(Path("/")):
        pass


def test_what_the_disk_refuses_names_the_output(tmp_path: Path) -> None:
    def run(number: int) -> None:
        with work_directory(tmp_path / "out") as work, publish_file(work / "deep" / "file"):
            raise OSError(number, "refused")

    with pytest.raises(OutputError, match=f"^{tmp_path}/out: cannot be written; received refused"):
        run(errno.EFBIG)
    with pytest.raises(OSError, match="refused"):
        run(errno.EBADF)


def test_a_work_directory_that_is_taken_away(tmp_path: Path) -> None:
    def run() -> None:
        with work_directory(tmp_path / "out") as work:
            work.rmdir()
            (work / "file").touch()

    with pytest.raises(OutputError, match="out: cannot be written; received No such file"):
        run()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"), publish(tmp_path / "file" / "out"):
        pass


def test_an_output_is_replaced_as_a_whole_and_never_missing_while_it_is_made(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with publish(out) as work:
        (work / "config.json").write_text("old")
        (work / "extra").touch()
    with publish(out, replace=True) as work:
        (work / "config.json").write_text("new")
        assert (out / "config.json").read_text() == "old"
    assert [path.name for path in out.iterdir()] == ["config.json"]
    assert (out / "config.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_files_of_another_program_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    with pytest.raises(OutputError, match="thesis: holds files"), publish(tmp_path / "thesis", replace=True):
        pass
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_removed_output_leaves_nothing(tmp_path: Path) -> None:
    remove_output(tmp_path / "absent")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").touch()
    remove_output(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    with (
        pytest.raises(OutputError, match=r"out: cannot be locked; received .*; name an output on"),
        publish(tmp_path / "out"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_in_the_words_of_a_library(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="out: cannot be written; received No space left"),
        publish(tmp_path / "out"),
    ):
        raise Exception("No space left on device (os error 28)")
