"""What an unfinished job has done: kept for the same job, dropped for another, gone when all is well."""

from pathlib import Path

import pytest

from contextgraft.checkpoint.journal import Journal
from contextgraft.errors import CheckpointError


def interrupted(work: Path, job: dict[str, object], error: type[BaseException] = KeyboardInterrupt) -> None:
    def run() -> None:
        with Journal(work, job) as journal:
            journal.put("../../step", {"n": 1})
            (work / "half").touch()
            raise error("x")

    with pytest.raises(error):
        run()


def test_the_same_job_finds_its_records(tmp_path: Path) -> None:
    interrupted(tmp_path, {"a": (1, 2)})
    with Journal(tmp_path, {"a": [1, 2]}) as journal:
        assert journal.get("../../step") == {"n": 1}
        assert journal.get("other") is None
    assert [path.name for path in tmp_path.iterdir()] == ["half"]


def test_another_job_begins_anew(tmp_path: Path) -> None:
    interrupted(tmp_path, {"a": 1})
    with Journal(tmp_path, {"a": 2}) as journal:
        assert journal.get("../../step") is None
        assert not (tmp_path / "half").exists()


def test_bad_inputs_leave_nothing(tmp_path: Path) -> None:
    interrupted(tmp_path, {"a": 1}, CheckpointError)
    assert list(tmp_path.iterdir()) == []


def test_keys_never_leave_the_folder(tmp_path: Path) -> None:
    with Journal(tmp_path, {}) as journal:
        assert journal.file("../../../etc/x", ".json").parent == tmp_path / ".journal"
