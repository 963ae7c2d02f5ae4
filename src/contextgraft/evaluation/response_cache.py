"""The response cache of a run: one JSON line per response, written at once, so that a killed run resumes."""

import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from contextgraft.evaluation.backends.base import GenerationRequest


def request_key(request: GenerationRequest) -> str:
    """sha256 of a prompt and of how it is continued."""
    prompt = " ".join(map(str, request.prompt_ids))
    how = {"do_sample": False, "until": list(request.stop), "max_gen_toks": request.max_new_tokens}
    return sha256(json.dumps([prompt, how], sort_keys=True).encode()).hexdigest()


class ResponseCache:
    """Responses by the key of their request, on disk as soon as they are added.

    A line that a kill cut short is dropped. The file belongs to one model, set of questions and backend
    configuration: its name is their digest. `advance` is called with the number of responses added.
    """

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self._path = path
        self._outputs = read_responses(path)
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(complete_bytes(path))
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
        """The response to a request; None if there is none yet."""
        return self._outputs.get(key)

    def add(self, key: str, output: str) -> None:
        """Write one response."""
        self._outputs[key] = output
        self._file.write(json.dumps({"key": key, "output": output}).encode() + b"\n")
        self._file.flush()
        self._advance(1)


def read_responses(path: Path) -> dict[str, str]:
    """Responses of a cache file by key; none if there is no such file."""
    if not path.exists():
        return {}
    lines = map(json.loads, path.read_bytes()[: complete_bytes(path)].splitlines())
    return {line["key"]: line["output"] for line in lines}


def complete_bytes(path: Path) -> int:
    """Bytes of a cache file up to the end of its last complete line."""
    return path.read_bytes().rfind(b"\n") + 1
