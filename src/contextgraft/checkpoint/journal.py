"""What an unfinished job has done already, kept in its work directory so that a rerun goes on from there."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from contextgraft.checkpoint.layout import CONFIG, ModelFolder
from contextgraft.checkpoint.publish import write_json
from contextgraft.errors import CheckpointError, MismatchError


class Journal:
    """Records by key in `<work>/.journal`; one of another job empties the work directory first.

    As a context manager: records go when the job ends well; everything goes when the inputs prove bad; an
    interrupt or a full disk leaves all as it is.
    """

    def __init__(self, work: Path, job: Mapping[str, Any]) -> None:
        self.work = work
        self.folder = work / ".journal"
        self.job = json.loads(json.dumps(job))

    def __enter__(self) -> Self:
        """Take up the records of the same job, or begin anew."""
        head = self.folder / "job.json"
        if not head.exists() or json.loads(head.read_text()) != self.job:
            _empty(self.work)
            self.folder.mkdir()
            write_json(head, self.job)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep what a rerun can use, and nothing else."""
        if error is None:
            shutil.rmtree(self.folder)
        elif isinstance(error, CheckpointError | MismatchError):
            _empty(self.work)

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of a finished step, or None."""
        path = self.file(key, ".json")
        return json.loads(path.read_text()) if path.exists() else None

    def put(self, key: str, record: Mapping[str, Any]) -> None:
        """Mark a step as finished; whatever belongs to it must be on disk already."""
        write_json(self.file(key, ".json"), record)

    def file(self, key: str, suffix: str) -> Path:
        """A place for a step's own data; keys are tensor names from files, so they never become paths."""
        return self.folder / (hashlib.sha256(key.encode()).hexdigest()[:32] + suffix)


def stamp(folder: ModelFolder) -> list[list[Any]]:
    """Path, size and time of every file of a model: tells whether a job's input is still the same."""
    files = [folder.path.resolve() / name for name in (CONFIG, *folder.shards, *folder.others)]
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
