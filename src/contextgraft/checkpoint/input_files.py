"""The files of an input as they were when it was opened, and whether one of them has changed since."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contextgraft.errors import InputChanged

# files that transformers prefers to others or adds to them, so that it matters if they appear
APPEARING = (
    "model.safetensors", "model.safetensors.index.json", "adapter_config.json", "generation_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip


class InputFiles(list[list[Any]]):
    """Path, size and modification time of every file of an input, as they were when the job began.

    Inodes are compared, too, but belong to no record of a job: a copy of the input on another disk is equal.
    """

    def __init__(self, files: Iterable[list[Any]] = ()) -> None:
        super().__init__(files)
        self._inodes = [_inode(Path(path)) for path, *_ in self]

    def check_unchanged(self) -> None:
        """Raise InputChanged naming the first file that has changed, appeared or gone."""
        for (path, *facts), inode in zip(self, self._inodes, strict=True):
            if _facts(Path(path)) != facts or _inode(Path(path)) != inode:
                raise InputChanged(path)


def list_inputs(paths: Iterable[Path]) -> InputFiles:
    """Files of an input; one that does not exist may not appear either."""
    return InputFiles([str(path), *_facts(path)] for path in paths)


def files_of(folder: Path) -> InputFiles:
    """Every visible file of a model's or adapter's folder; links are not resolved, so they count, too."""
    folder = folder.absolute()
    present = {
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    return list_inputs(sorted(present | {folder / name for name in APPEARING}))


@contextmanager
def unchanged(*inputs: InputFiles) -> Iterator[None]:
    """Raise InputChanged at the end of the block, or instead of its error, if an input is not what it was."""
    try:
        yield
    except Exception:  # not an interruption
        check_unchanged(*inputs)  # the change of the input caused whatever else went wrong
        raise
    check_unchanged(*inputs)


def check_unchanged(*inputs: InputFiles) -> None:
    """Raise InputChanged naming the first file that has changed."""
    for files in inputs:
        files.check_unchanged()


def _facts(path: Path) -> list[Any]:
    try:
        status = path.stat()
    except OSError:
        return [None, None]
    return [status.st_size, status.st_mtime_ns]


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
