"""What a run was told to do, kept beside what it has done, so that a rerun is known to be the same."""

import shutil
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.digest import file_digest, model_digest
from contextgraft.checkpoint.layout import ModelFolder, read_json
from contextgraft.checkpoint.publish import JOURNAL, write_json
from contextgraft.config.study import companions
from contextgraft.config.training import DocumentsSource, Recipe
from contextgraft.errors import OutputError
from contextgraft.training import datasets, state

FILE = "order.json"


def begin(work: Path, recipe: Recipe, base: ModelFolder, config: Path, *, dtype: str) -> None:
    """Take back what a run that was killed at its end had put away, and see that it was this run.

    A partial output goes on only under the very order it was begun with; else OutputError. But where nothing
    was learnt yet it is begun anew: what was fetched stays.
    """
    for path in (work / JOURNAL).glob("*"):
        path.rename(work / path.name)
    shutil.rmtree(work / JOURNAL, ignore_errors=True)
    _same_order(
        work,
        {
            "recipe": recipe.model_dump(mode="json", exclude={"seed"}),
            "seed": recipe.seed,
            "base": model_digest(base),
            "dtype": dtype,
            "data": {str(path): file_digest(path) for path in _read_again(config, recipe)},
        },
    )


def _read_again(config: Path, recipe: Recipe) -> list[Path]:
    """The files that a resumed run reads once more; documents are packed by then."""
    packed = {
        config.parent / name
        for source in recipe.data
        if isinstance(source, DocumentsSource) and not source.hub
        for name in source.files
    }
    return [path for path in companions(config) if path != config and path not in packed]


def _same_order(work: Path, order: dict[str, Any]) -> None:
    path = work / FILE
    if not path.exists():
        write_json(path, order)
        return
    begun = read_json(path)
    changed = sorted(key for key in order if begun.get(key) != order[key])
    if changed and not _learnt(work):
        _clear(work)
        write_json(path, order)
    elif changed:
        raise OutputError(
            f"an unfinished run with another {' and '.join(changed)} lies there",
            path=work,
            remedy="repeat that run's command to finish it, or remove the folder to start anew",
        )


def _learnt(work: Path) -> bool:
    return (work / state.FILE).exists() or any((work / state.SHARED).glob("step-*[0-9]"))


def _clear(work: Path) -> None:
    for path in work.iterdir():
        if path.is_dir() and path.name != datasets.FOLDER:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
