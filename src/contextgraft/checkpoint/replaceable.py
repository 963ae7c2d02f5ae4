"""What an output may replace: what contextgraft writes, never an input, nor a folder that is in use."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from contextgraft.checkpoint.model_folder import read_json
from contextgraft.errors import CheckpointError, OutputError, raise_read_error

MODEL_FILES = ("contextgraft.json", "contextgraft.source.json", "config.json", "adapter_config.json")


class OutputExists(OutputError):  # noqa: N818 - named after the event, like FileExists
    """The output exists already.

    `replaceable`: whether a command may replace it, if it is asked to; `other` is what helps in any case.
    """

    def __init__(self, path: Path, *, replaceable: bool = True, other: str = "name another output") -> None:
        self.path, self.replaceable, self.other = path, replaceable, other
        self.offer(())

    def offer(self, options: Iterable[str]) -> None:
        """Name options of the command, with what they do, in the text; removing the output is one without."""
        words = " or ".join(options)
        remedy = f"pass {words}, or {self.other}" if words else f"remove it or {self.other}"
        super().__init__("already exists", path=self.path, remedy=remedy)


def check_model_output(out: Path) -> None:
    """Raise OutputError if a folder that is to be replaced is not a model, an adapter or a sidecar's.

    Nor is the working folder or the home folder replaced, or one that contains them.
    """
    if not _is_model(out):
        raise OutputError(
            "holds files of another program, which --force does not remove",
            path=out,
            expected=f"a folder with {' or '.join(MODEL_FILES)}",
            remedy="remove it or name another output",
        )
    for name, find in (("working", Path.cwd), ("home", Path.home)):
        with suppress(FileNotFoundError, RuntimeError):
            if _contains(out, find()):
                raise OutputError(
                    f"is or contains the {name} folder, which --force does not remove", path=out,
                    remedy="name another output",
                )  # fmt: skip


def check_apart(out: Path, inputs: Iterable[Path]) -> None:
    """Raise OutputError if an output is or contains an input, or is inside a model or adapter that is one.

    Links are followed. A folder that is only searched, such as one of several adapters, may hold the output.
    """
    real = Path(os.path.realpath(out))
    for path in filter(os.path.lexists, inputs):
        given = Path(os.path.realpath(path))
        relations = {
            "is": real == given,
            "contains": real in given.parents,
            "is inside": given in real.parents and _is_model(given),
        }
        for relation in (name for name, holds in relations.items() if holds):
            raise OutputError(
                f"{relation} an input of this command", path=out, expected="a path outside of every input",
                received=path, remedy="name another output",
            )  # fmt: skip


def check_file_replaceable(path: Path, is_own: Callable[[Path], bool], what: str) -> None:
    """Raise OutputError if there is a file at `path` that is neither empty nor `what` a command writes."""
    if not os.path.lexists(path):
        return
    if not path.is_file() or (path.stat().st_size and not is_own(path)):
        raise OutputError(
            f"is not {what}, which would replace it", path=path, remedy="remove it or name another file"
        )


def check_json_replaceable(path: Path, keys: Iterable[str], what: str) -> None:
    """As `check_file_replaceable`, for a JSON object with at least these keys."""
    check_file_replaceable(path, lambda file: _has_keys(file, set(keys)), what)


def _is_model(folder: Path) -> bool:
    """Whether a folder itself holds a model, an adapter or a record."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return bool(names & set(MODEL_FILES)) or any(name.endswith(".safetensors") for name in names)


def _has_keys(path: Path, keys: set[str]) -> bool:
    try:
        return keys <= read_json(path).keys()
    except CheckpointError as error:
        raise_read_error(error, path)
        return False


def _contains(folder: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
