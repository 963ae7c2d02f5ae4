"""Who answers requests: a backend yields outcomes as they come, and a recorder hands them to lm-eval."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from contextgraft.evaluation.requests import Arguments, cut, request_to_ids
from contextgraft.evaluation.response_cache import Journal, request_key

REASON = 200  # most characters of a reason


@dataclass(frozen=True)
class NoAnswer:
    """Why there is no output. `status` is "failed", or "truncated" where the model was not even asked."""

    status: str
    reason: str


Outcome = str | NoAnswer


def failure(error: BaseException) -> NoAnswer:
    """An error as one line."""
    return NoAnswer("failed", " ".join(f"{type(error).__name__}: {error}".split())[:REASON])


@dataclass
class Prefill:
    """Prompt tokens that were answered for, and how many of them were computed."""

    prompt: int = 0
    computed: int = 0


class Backend(Protocol):
    """A model that can be asked. What cannot be run is an outcome, not an exception."""

    prefill: Prefill | None

    @property
    def model(self) -> Any:
        """The torch module, if it runs in this process; else None."""

    def answers(self, requests: Sequence[Instance]) -> Iterator[tuple[Instance, Outcome]]:
        """Every request once with its outcome, in any order, as soon as it is known."""


class Portions:
    """Any lm-eval model as a backend: so many requests at once; a portion that fails is asked one by one."""

    prefill: Prefill | None = None
    model = None

    def __init__(self, lm: Any, size: int) -> None:
        self._lm = lm
        self._size = size

    def answers(self, requests: Sequence[Instance]) -> Iterator[tuple[Instance, Outcome]]:
        """Every request with its outcome."""
        for start in range(0, len(requests), self._size):
            yield from self._portion(requests[start : start + self._size])

    def _portion(self, requests: Sequence[Instance]) -> Iterator[tuple[Instance, Outcome]]:
        try:
            outputs = self._lm.generate_until(list(requests), disable_tqdm=True)
        except RuntimeError as error:
            if len(requests) == 1:
                yield requests[0], failure(error)
                return
            for request in requests:
                yield from self._portion([request])
            return
        for request, output in zip(requests, outputs, strict=True):
            yield request, cut(output, request.args[1]["until"])


class Recorder(LM):  # type: ignore[misc]  # lm-eval is untyped
    """What lm-eval asks: known answers come from the journal, the others from the backend and into it.

    A prompt that does not fit the model's positions is not asked. `outcome` tells what came of a request.
    """

    def __init__(self, backend: Backend, journal: Journal, room: int | None) -> None:
        super().__init__()
        self._backend = backend
        self._journal = journal
        self._room = room
        self._without: dict[str, NoAnswer] = {}

    def outcome(self, arguments: Arguments) -> Outcome:
        """The output for a request that was made, or why there is none."""
        return self._outcome(request_key(arguments))

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """An output for every request, in order; empty where there is none."""
        keys = [request_key(request.args) for request in requests]
        rest = []
        for key, request in zip(keys, requests, strict=True):
            if self._journal.get(key) is None:
                reason = too_long(request.args, self._room)
                if reason is None:
                    rest.append(request)
                else:
                    self._without[key] = NoAnswer("truncated", reason)
        for request, outcome in self._backend.answers(rest) if rest else ():
            if isinstance(outcome, NoAnswer):
                self._without[request_key(request.args)] = outcome
            else:
                self._journal.add(request_key(request.args), outcome)
        outcomes = map(self._outcome, keys)
        return [outcome if isinstance(outcome, str) else "" for outcome in outcomes]

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> Any:
        """Not for questions: their tasks generate."""
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> Any:
        """Not for questions: their tasks generate."""
        raise NotImplementedError

    def _outcome(self, key: str) -> Outcome:
        known = self._journal.get(key)
        return self._without[key] if known is None else known


def too_long(arguments: Arguments, room: int | None) -> str | None:
    """Why a prompt is not asked of a model with `room` positions; None where it fits."""
    needed = len(request_to_ids(arguments[0])) + arguments[1]["max_gen_toks"]
    if room is None or needed <= room:
        return None
    return f"needs {needed} tokens, the model has {room} positions and no rotary ones; it was not asked"
