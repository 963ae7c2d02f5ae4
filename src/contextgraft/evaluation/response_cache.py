"""The response cache of a run: one JSON line per response, written at once, so that a killed run resumes."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from contextgraft.checkpoint.atomic import publish_file
from contextgraft.checkpoint.digest import json_digest
from contextgraft.evaluation.backends.base import GenerationRequest


def request_key(request: GenerationRequest) -> str:
    """sha256 of a prompt and of how it is continued."""
    prompt = " ".join(map(str, request.prompt_ids))
    how = {"do_sample": False, "until": list(request.stop), "max_gen_toks": request.max_new_tokens}
    return sha256(json.dumps([prompt, how], sort_keys=True).encode()).hexdigest()


class ResponseCache:
    """Responses by the key of their request, on disk as soon as they are added.

    Lines that a kill or a loss of power spoiled are removed: each line has a digest of its content. The file
    belongs to one model, set of questions and backend configuration: its name is their digest. `advance` is
    called with the number of responses added.
    """

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self._path = path
        self._outputs = read_responses(path)
        whole = b"".join(_line(key, output) for key, output in self._outputs.items())
        if path.exists() and path.read_bytes() != whole:
            with publish_file(path) as temporary:
                temporary.write_bytes(whole)
        self._file = path.open("ab")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._path.stat().st_size == 0:
            self._path.unlink()

    def get(self, key: str) -> str | None:
        """The response to a request; None if there is none yet."""
        return self._outputs.get(key)

    def add(self, key: str, output: str) -> None:
        """Append one response to the file at once, so that an interrupted run keeps it."""
        self._outputs[key] = output
        self._file.write(_line(key, output))
        self._file.flush()
        self._advance(1)


def read_responses(path: Path) -> dict[str, str]:
    """Responses of a cache file by key, without spoiled lines; none if there is no such file."""
    if not path.is_file():
        return {}
    pairs = map(_parse, path.read_bytes().split(b"\n")[:-1])
    return dict(pair for pair in pairs if pair is not None)


def _line(key: str, output: str) -> bytes:
    record = {"key": key, "output": output, "digest": json_digest([key, output])}
    return json.dumps(record).encode() + b"\n"


def _parse(line: bytes) -> tuple[str, str] | None:
    """Key and output of a line; None if it is not as it was written."""
    try:
        record: Any = json.loads(line)
        key, output = record["key"], record["output"]
        return (key, output) if line + b"\n" == _line(key, output) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
