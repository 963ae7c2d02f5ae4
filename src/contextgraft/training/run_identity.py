"""What defines a run, stored with its unfinished output, so that a rerun is known to be the same run."""

from pathlib import Path
from typing import Any

from contextgraft.checkpoint.atomic import RESUME_LOG, remove, write_json
from contextgraft.checkpoint.digest import file_digest, model_digest
from contextgraft.checkpoint.model_folder import ModelFolder, read_json
from contextgraft.config.resolved_study import referenced_files
from contextgraft.config.training import Recipe
from contextgraft.config.training.data import DocumentsSource
from contextgraft.errors import CheckpointError, OutputError, raise_read_error
from contextgraft.training.data.hub import FETCHED, records_are_whole
from contextgraft.training.reporting.progress import TrainingReporter
from contextgraft.training.state import CHECKPOINTS, IDENTITY_FILE, METRICS_FILE, STATE_FILE, TRACKERS_FILE


def check_resumable(
    work: Path, recipe: Recipe, base: ModelFolder, config: Path, *, dtype: str, reporter: TrainingReporter
) -> None:
    """Check that an unfinished output in `work` belongs to this run; undo moves of a run killed at its end.

    An unfinished output of another run raises OutputError if it has done any steps. Without steps it is
    removed, except files that were fetched.
    """
    for path in (work / RESUME_LOG).glob("*"):
        path.rename(work / path.name)
    remove(work / RESUME_LOG)
    for name in (IDENTITY_FILE, STATE_FILE, METRICS_FILE, TRACKERS_FILE):
        if not (work / name).is_file():  # a folder or a pipe, which would be in the way
            remove(work / name)
    identity = {
        "recipe": recipe.model_dump(mode="json", exclude={"seed"}),
        "seed": recipe.seed,
        "base": model_digest(base),
        "dtype": dtype,
        "data": {str(path): file_digest(path) for path in _files_read_on_resume(config, recipe)},
    }
    path = work / IDENTITY_FILE
    previous = _read(path) if path.exists() else identity
    changed = " and ".join(sorted(key for key in identity if previous.get(key) != identity[key]))
    progress = (work / STATE_FILE).exists() or any((work / CHECKPOINTS).glob("step-*[0-9]"))
    if changed and previous and progress:
        raise OutputError(
            f"contains an unfinished run with another {changed}",
            path=work,
            remedy="repeat that run's command to finish it, or remove the folder to start again",
        )
    if not records_are_whole(work):
        reporter.message("starting again: the records of fetched data sets are spoiled")
        for spoiled in work.iterdir():
            remove(spoiled)
    elif changed:
        reason = (
            f"an unfinished run with another {changed} had not done any step" if previous else "it is spoiled"
        )
        reporter.message(f"starting again: {reason}")
        _remove_all_but_fetched(work)
    if changed or not path.exists():
        write_json(path, identity)


def _read(path: Path) -> dict[str, Any]:
    """The identity of an unfinished run; empty if its file was spoiled."""
    try:
        return read_json(path)
    except CheckpointError as error:
        raise_read_error(error, path)
        return {}


def _files_read_on_resume(config: Path, recipe: Recipe) -> list[Path]:
    """Files that the recipe names, without documents: those are packed before the first step."""
    packed = {
        config.parent / name
        for source in recipe.data
        if isinstance(source, DocumentsSource) and not source.hub
        for name in source.files
    }
    return [path for path in referenced_files(config) if path != config and path not in packed]


def _remove_all_but_fetched(work: Path) -> None:
    for path in work.iterdir():
        if path.name != FETCHED or not path.is_dir():
            remove(path)
