"""What a run was told to do, kept beside what it has done, so that a rerun is known to be the same."""

import shutil
from collections.abc import Callable
from pathlib import Path

from contextgraft.checkpoint.atomic import RESUME_LOG, write_json
from contextgraft.checkpoint.digest import file_digest, model_digest
from contextgraft.checkpoint.model_folder import ModelFolder, read_json
from contextgraft.config.resolved_study import referenced_files
from contextgraft.config.training import DocumentsSource, Recipe
from contextgraft.errors import OutputError
from contextgraft.training import state
from contextgraft.training.data import hub

FILE = "order.json"


def begin(
    work: Path,
    recipe: Recipe,
    base: ModelFolder,
    config: Path,
    *,
    dtype: str,
    tell: Callable[[str], None] = lambda _: None,
) -> None:
    """Take back what a run that was killed at its end had put away, and see that it was this run.

    A partial output goes on only under the very order it was begun with; else OutputError. But where nothing
    was learnt yet it is begun anew: what was fetched stays.
    """
    for path in (work / RESUME_LOG).glob("*"):
        path.rename(work / path.name)
    shutil.rmtree(work / RESUME_LOG, ignore_errors=True)
    order = {
        "recipe": recipe.model_dump(mode="json", exclude={"seed"}),
        "seed": recipe.seed,
        "base": model_digest(base),
        "dtype": dtype,
        "data": {str(path): file_digest(path) for path in _read_again(config, recipe)},
    }
    path = work / FILE
    begun = read_json(path) if path.exists() else order
    changed = " and ".join(sorted(key for key in order if begun.get(key) != order[key]))
    if changed and _learnt(work):
        raise OutputError(
            f"an unfinished run with another {changed} lies there",
            path=work,
            remedy="repeat that run's command to finish it, or remove the folder to start anew",
        )
    if changed:
        tell(f"begun anew: an unfinished run with another {changed} had not learnt anything yet")
        _clear(work)
    if changed or not path.exists():
        write_json(path, order)


def _read_again(config: Path, recipe: Recipe) -> list[Path]:
    """The files that a resumed run reads once more; documents are packed by then."""
    packed = {
        config.parent / name
        for source in recipe.data
        if isinstance(source, DocumentsSource) and not source.hub
        for name in source.files
    }
    return [path for path in referenced_files(config) if path != config and path not in packed]


def _learnt(work: Path) -> bool:
    return (work / state.FILE).exists() or any((work / state.SHARED).glob("step-*[0-9]"))


def _clear(work: Path) -> None:
    for path in work.iterdir():
        if path.is_dir() and path.name != hub.FOLDER:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
