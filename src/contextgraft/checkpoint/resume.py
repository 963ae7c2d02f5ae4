"""What an unfinished job has done already, kept in its work directory so that a rerun goes on from there."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from contextgraft.checkpoint.atomic import JOURNAL, set_aside, write_json
from contextgraft.checkpoint.model_folder import MODEL_CONFIG, MODEL_INDEX, ModelFolder
from contextgraft.errors import CheckpointError, MismatchError

HEAD = "job.json"


class Stamp(list[list[Any]]):
    """Path, size and time of every file of an input, as they were when the job began."""

    def refuse_changed(self) -> None:
        """Raise CheckpointError naming the first file that is no longer what it was."""
        for path, *facts in self:
            if _facts(Path(path)) != facts:
                raise CheckpointError(
                    "was changed while it was read", path=path, remedy="run again when nothing writes to it"
                )


class Journal:
    """Records by key in `<work>/.journal`; one of another job empties the work directory first.

    As a context manager: records are set aside when the job ends well; everything goes when the inputs prove
    bad, or changed under the job, and when nothing is on record yet; else an interrupt or a full disk leaves
    all as it is.
    """

    def __init__(self, work: Path, job: Mapping[str, Any]) -> None:
        self.work = work
        self.folder = work / JOURNAL
        self.job = json.loads(json.dumps(job))
        self.stamps = [value for value in job.values() if isinstance(value, Stamp)]

    def __enter__(self) -> Self:
        """Take up the records of the same job, or begin anew."""
        if _load(self.folder / HEAD) == self.job:
            return self
        try:
            _empty(self.work)
            self.folder.mkdir()
            write_json(self.folder / HEAD, self.job)
        except BaseException:
            _empty(self.work)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep what a rerun can use, and nothing else."""
        if error is None or isinstance(error, Exception):
            try:
                self._refuse_changed()
            except CheckpointError as changed:
                _empty(self.work)
                raise changed from None  # whatever happened, it happened because of that
        if error is None:
            set_aside(self.work)
        elif isinstance(error, CheckpointError | MismatchError) or not self._records():
            _empty(self.work)

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of a finished step, or None."""
        record = _load(self.file(key, ".json"))
        return record if isinstance(record, dict) else None

    def put(self, key: str, record: Mapping[str, Any]) -> None:
        """Mark a step as finished; what belongs to it is whole, and is checked again when it is taken up.

        Inputs that are no longer what the job began with raise CheckpointError.
        """
        self._refuse_changed()
        write_json(self.file(key, ".json"), record, durable=False)

    def file(self, key: str, suffix: str) -> Path:
        """A place for a step's own data; keys are tensor names from files, so they never become paths."""
        return self.folder / (hashlib.sha256(key.encode()).hexdigest()[:32] + suffix)

    def _records(self) -> bool:
        return any(path.suffix == ".json" and path.name != HEAD for path in self.folder.glob("[!.]*"))

    def _refuse_changed(self) -> None:
        for stamp in self.stamps:
            stamp.refuse_changed()


def stamp(folder: ModelFolder) -> Stamp:
    """The stamp of a model: tells a rerun, and the job itself at its end, whether it is still the same."""
    path = folder.path.resolve()
    index = [MODEL_INDEX] if (path / MODEL_INDEX).exists() else []
    return stamp_files(path / name for name in (MODEL_CONFIG, *index, *folder.shards, *folder.others))


def stamp_files(paths: Iterable[Path]) -> Stamp:
    """The stamp of any files, for inputs that are no models."""
    return Stamp([str(path), *_facts(path)] for path in paths)


def _facts(path: Path) -> list[Any]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return [None, None]
    return [status.st_size, status.st_mtime_ns]


def _load(path: Path) -> Any:
    """What a file of the journal holds; None if there is none, or no JSON in it."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _empty(folder: Path) -> None:
    """Remove all that is in a work directory; its journal is void from the first moment on."""
    (folder / JOURNAL / HEAD).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
