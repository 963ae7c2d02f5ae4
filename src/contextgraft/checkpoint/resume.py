"""Resuming: what an unfinished job has done, in its work directory, so that the same command continues."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from contextgraft.checkpoint.atomic import (
    RESUME_LOG,
    check_output,
    detach_log,
    move_into_place,
    remove,
    work_directory,
    write_json,
)
from contextgraft.checkpoint.input_files import InputFiles
from contextgraft.checkpoint.model_folder import MODEL_CONFIG, MODEL_INDEX, ModelFolder
from contextgraft.checkpoint.replaceable import OutputExists, check_apart
from contextgraft.errors import CheckpointError, MismatchError, ReadError, raise_read_error

JOB_FILE = "job.json"
BUILT = "built"  # key of a log: every folder is complete, only renames are missing
_SIZES = "sizes"  # key of a log: the files of the complete folders and their sizes, before the first rename


@dataclass(frozen=True)
class JobIdentity:
    """Everything that determines a job's result, as JSON values; recorded in a file of its work directory."""

    job: Mapping[str, Any]

    def differences(self, path: Path) -> tuple[str, ...] | None:
        """Keys in which the job recorded at `path` differs, sorted; None where none is recorded."""
        recorded, job = _load(path), self._json()
        if not isinstance(recorded, dict):
            return None
        return tuple(sorted(key for key in {*recorded, *job} if recorded.get(key) != job.get(key)))

    def write(self, path: Path) -> None:
        """Write the job's identity to `path`, so that a later run can compare its own."""
        write_json(path, self._json())

    def _json(self) -> dict[str, Any]:
        """The values as they are read back: tuples are lists."""
        job: dict[str, Any] = json.loads(json.dumps(self.job))
        return job


class ResumeLog:
    """Records by key in `<work>/.journal`; a log of another job empties the work directory first.

    As a context manager: when the job succeeds, the log is detached from the work directory. When the inputs
    are invalid or have changed, or nothing was recorded yet, the work directory is emptied. Any other error,
    such as an interrupt, a full disk or a file that cannot be read now, leaves everything for the rerun.
    """

    def __init__(self, work: Path, job: Mapping[str, Any]) -> None:
        self.work = work
        self.folder = work / RESUME_LOG
        self.identity = JobIdentity(job)
        self.inputs = [value for value in job.values() if isinstance(value, InputFiles)]

    def __enter__(self) -> Self:
        """Open the log of the same job, or begin a new one; one that holds anything but files is spoiled."""
        same = self.identity.differences(self.folder / JOB_FILE) == ()
        if same and all(path.is_file() and not path.is_symlink() for path in self.folder.iterdir()):
            return self
        try:
            _empty(self.work)
            self.folder.mkdir()
            self.identity.write(self.folder / JOB_FILE)
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
                self._check_inputs()
            except CheckpointError as changed:
                if _is_invalid(changed):
                    _empty(self.work)
                raise changed from None  # the change of the input caused whatever else went wrong
        if error is None:
            detach_log(self.work)
        elif _is_invalid(error) or not self._has_records():
            _empty(self.work)

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of a finished step, or None."""
        record = _load(self.file(key, ".json"))
        return record if isinstance(record, dict) else None

    def put(self, key: str, record: Mapping[str, Any]) -> None:
        """Record a finished step, whose data are complete; a rerun verifies them before it uses them.

        Inputs that have changed since the job began raise CheckpointError.
        """
        self._check_inputs()
        write_json(self.file(key, ".json"), record, durable=False)

    def file(self, key: str, suffix: str) -> Path:
        """The path of a step's own data; keys are tensor names from files, so they are hashed."""
        return self.folder / (hashlib.sha256(key.encode()).hexdigest()[:32] + suffix)

    def _has_records(self) -> bool:
        return any(path.suffix == ".json" and path.name != JOB_FILE for path in self.folder.glob("[!.]*"))

    def _check_inputs(self) -> None:
        for files in self.inputs:
            files.check_unchanged()


def _is_invalid(error: BaseException) -> bool:
    """Whether an error says that an input cannot be used, so that nothing of the job can be."""
    return isinstance(error, CheckpointError | MismatchError) and not isinstance(error, ReadError)


@contextmanager
def publish_folders(
    out: Path,
    names: Sequence[str],
    job: Mapping[str, Any],
    *,
    replace: bool = False,
    inputs: Sequence[Path] = (),
) -> Iterator[ResumeLog]:
    """The resume log of a job that writes folders `names` to its work directory, then moved into `out`.

    The block records BUILT when all are complete. A folder that exists already, and was not moved there by
    an interrupted run of this job, raises OutputError unless `replace`; one that is, contains or is inside
    one of `inputs` always does. If one that was moved there has lost a file since, as when Snakemake removes
    the outputs of an interrupted job, the job begins anew.
    """
    if os.path.lexists(out) and not out.is_dir():
        raise OutputExists(out, replaceable=False)
    for name in names:
        check_apart(out / name, inputs)
    with work_directory(out) as work:
        log = ResumeLog(work, job)
        sizes = log.get(_SIZES) or {}
        whole = all((work / name).exists() or sizes.get(name) == _sizes(out / name) for name in names)
        if log.get(BUILT) is not None and not whole:
            _empty(work)
        _check_folders(log, out, names, replace=replace)
        with log:
            _check_folders(log, out, names, replace=replace)  # again: the log may have been another job's
            yield log
            if log.get(_SIZES) is None:
                log.put(_SIZES, {name: _sizes(work / name) for name in names})
            for name in names:
                if (work / name).exists():
                    move_into_place(work / name, out / name)


def input_files(folder: ModelFolder) -> InputFiles:
    """Every file of a model, as they were when it was opened; InputChanged if one has changed since."""
    path = folder.path.resolve()
    index = [MODEL_INDEX] if (path / MODEL_INDEX).exists() else []
    files = InputFiles(path / name for name in (MODEL_CONFIG, *index, *folder.shards, *folder.others))
    folder.inputs.check_unchanged()
    return files


def _check_folders(log: ResumeLog, out: Path, names: Sequence[str], *, replace: bool) -> None:
    if log.get(BUILT) is None:
        for name in names:
            check_output(out / name, replace=replace)


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _load(path: Path) -> Any:
    """The JSON value of a file of ours; None if it is missing, or was not written completely."""
    try:
        return json.loads(path.read_bytes()) if path.is_file() else None
    except OSError as error:
        raise_read_error(error, path)
        return None
    except (ValueError, RecursionError):
        return None


def _empty(folder: Path) -> None:
    """Remove everything in a work directory; its log is invalid from the first moment on."""
    remove(folder / RESUME_LOG / JOB_FILE)
    for path in folder.iterdir():
        remove(path)
