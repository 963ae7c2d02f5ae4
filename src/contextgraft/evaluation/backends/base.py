"""What a backend is: it continues prompts of token ids greedily and yields each response as it comes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

MAX_REASON = 200  # characters of a reason

Response = str  # the text that a model generated, without the stop string that ended it


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt as token ids, continued greedily for `max_new_tokens` at most or until a stop string."""

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class NoResponse:
    """Why there is no response. `status` is "failed", or "truncated" if the prompt exceeds the context."""

    status: str
    reason: str


Outcome = Response | NoResponse


def failed_response(error: BaseException) -> NoResponse:
    """An error of the backend as a one-line reason."""
    return NoResponse("failed", " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON])


@dataclass
class PrefillCount:
    """Prompt tokens of all requests, and how many of them were computed (the others were reused)."""

    prompt: int = 0
    computed: int = 0


class Backend(Protocol):
    """A model that generates text. A request that cannot be run yields a NoResponse, not an exception."""

    prefill: PrefillCount | None

    @property
    def model(self) -> Any:
        """The torch module, if it runs in this process; else None."""

    def responses(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Outcome]]:
        """The index of each request with its outcome, once each, in any order, as soon as it is known."""


def lifetime(backend: Backend) -> AbstractContextManager[object]:
    """A block at whose end the backend stops what it has started, such as a server."""
    return backend if isinstance(backend, AbstractContextManager) else nullcontext()


class ChunkedBackend:
    """A backend around a function that generates for a list of requests, `size` of them per call.

    If a call raises RuntimeError, its requests are repeated one by one, so that only those fail that must.
    """

    prefill: PrefillCount | None = None
    model = None

    def __init__(self, generate: Callable[[Sequence[GenerationRequest]], Sequence[str]], size: int) -> None:
        self._generate = generate
        self._size = size

    def responses(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Outcome]]:
        """The index of each request with its outcome, chunk by chunk."""
        for start in range(0, len(requests), self._size):
            indices = range(start, min(start + self._size, len(requests)))
            yield from self._chunk(requests, indices)

    def _chunk(
        self, requests: Sequence[GenerationRequest], indices: Sequence[int]
    ) -> Iterator[tuple[int, Outcome]]:
        try:
            texts = self._generate([requests[index] for index in indices])
        except RuntimeError as error:
            if len(indices) == 1:
                yield indices[0], failed_response(error)
                return
            for index in indices:
                yield from self._chunk(requests, [index])
            return
        for index, text in zip(indices, texts, strict=True):
            yield index, cut_at_stop(text, requests[index].stop)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text up to the first stop string that occurs in it; empty stop strings are ignored."""
    for stop_string in stop:
        text = text.split(stop_string, maxsplit=1)[0] if stop_string else text
    return text
