"""Replies kept as they come, one JSON line each, so that a killed run asks nobody twice."""

import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from contextgraft.evaluation.requests import Arguments


def request_key(arguments: Arguments) -> str:
    """sha256 of a prompt and of how it is to be continued."""
    prompt, generation = arguments
    return sha256(json.dumps([prompt, generation], sort_keys=True).encode()).hexdigest()


class Journal:
    """Outputs by the key of their request, on disk as soon as they are added.

    A line that a kill cut short is dropped. The file belongs to one model, exam and engine: its name says so.
    """

    def __init__(self, path: Path, asked: Callable[[int], None]) -> None:
        self._asked = asked
        self._path = path
        self._outputs = read(path)
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(whole(path))
        self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._path.stat().st_size == 0:
            self._path.unlink()

    def get(self, key: str) -> str | None:
        """What the model answered, if it was asked."""
        return self._outputs.get(key)

    def add(self, key: str, output: str) -> None:
        """Keep one output."""
        self._outputs[key] = output
        self._file.write(json.dumps({"key": key, "output": output}).encode() + b"\n")
        self._file.flush()
        self._asked(1)


def read(path: Path) -> dict[str, str]:
    """Outputs of a journal by key; none if there is no such file."""
    if not path.exists():
        return {}
    lines = map(json.loads, path.read_bytes()[: whole(path)].splitlines())
    return {line["key"]: line["output"] for line in lines}


def whole(path: Path) -> int:
    """Bytes of a journal up to the end of its last whole line."""
    return path.read_bytes().rfind(b"\n") + 1
