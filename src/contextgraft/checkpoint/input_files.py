"""The files of an input as they were when it was opened, and whether one of them has changed since."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from contextgraft.errors import InputChanged, raise_read_error

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

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        """Look at each path once; a file that does not exist may not appear either."""
        status = [(str(path), *_status(path)) for path in paths]
        super().__init__([path, size, modified] for path, size, modified, _ in status)
        self._inodes = [inode for *_, inode in status]

    @classmethod
    def combined(cls, *inputs: "InputFiles") -> Self:
        """The files of several inputs, each as it was when its input was opened."""
        files = cls()
        for item in inputs:
            files.extend(item)
            files._inodes.extend(item._inodes)
        return files

    def check_unchanged(self) -> None:
        """Raise InputChanged naming the first file that has changed, appeared or gone."""
        for (path, *facts), inode in zip(self, self._inodes, strict=True):
            if _status(Path(path)) != (*facts, inode):
                raise InputChanged(path)


def files_of(folder: Path) -> InputFiles:
    """Every visible file of a model's or adapter's folder; links are not resolved, so they count, too."""
    folder = folder.absolute()
    present = {
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    return InputFiles(sorted(present | {folder / name for name in APPEARING}))


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


def _status(path: Path) -> tuple[int | None, int | None, int | None]:
    """Size, modification time in nanoseconds and inode; all None for a file that is not there."""
    try:
        status = path.stat()
    except OSError as error:
        raise_read_error(error, path)
        return None, None, None
    return status.st_size, status.st_mtime_ns, status.st_ino
