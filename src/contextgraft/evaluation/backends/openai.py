"""The backend that sends token ids to a server with OpenAI's completions API, such as vLLM or llama.cpp."""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from contextgraft.errors import SourceError
from contextgraft.evaluation.backends.base import (
    GenerationRequest,
    Outcome,
    PrefillCount,
    cut_at_stop,
    failed_response,
)

ATTEMPTS = 3  # per request, before it counts as failed
FIRST_PAUSE = 0.5  # seconds before the second attempt; doubled before each further one
TIMEOUT = 3600  # seconds; the prefill of a million tokens takes long
MAX_STOPS = 4  # stop strings that the API allows; the others are applied here
SEED = 1234
# Statuses that concern all requests alike: no access, no such model or address.
FATAL_STATUSES = frozenset({401, 403, 404, 405})
RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class CompletionsBackend:
    """Greedy completions of one served model, `concurrent` requests at a time. No key is sent.

    A server that cannot be reached or does not serve the model raises SourceError, which says nothing about
    the model; an error status for one
    request is the reason of its NoResponse.
    """

    prefill: PrefillCount | None = None
    model = None

    def __init__(self, url: str, name: str, *, concurrent: int) -> None:
        self._url = url
        self._name = name
        self._concurrent = concurrent
        self._opener = build_opener(ProxyHandler({}))  # no proxy of the environment

    def responses(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Outcome]]:
        """The index of each request with its outcome, in order.

        After an error, or Ctrl-C, requests on their way are not waited for.
        """
        pool = ThreadPoolExecutor(self._concurrent)
        try:
            for start in range(0, len(requests), self._concurrent):
                chunk = requests[start : start + self._concurrent]
                yield from enumerate(pool.map(self._complete, chunk), start)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _complete(self, request: GenerationRequest) -> Outcome:
        content = {
            "model": self._name,
            "prompt": list(request.prompt_ids),
            "max_tokens": request.max_new_tokens,
            "temperature": 0,
            "stop": list(filter(None, request.stop))[:MAX_STOPS],
            "seed": SEED,
        }
        try:
            text = completion_text(self._post(json.dumps(content).encode()))
        except RuntimeError as error:
            return failed_response(error)
        return cut_at_stop(text, request.stop)

    def _post(self, content: bytes) -> bytes:
        """The body of the server's answer; RuntimeError for an error status, SourceError without one."""
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                request = Request(self._url, content, {"Content-Type": "application/json"})
                with self._opener.open(request, timeout=TIMEOUT) as response:
                    body: bytes = response.read()
                return body
            except HTTPError as error:
                if error.code in FATAL_STATUSES:
                    raise self._unavailable(f"status {error.code}: {error.reason}") from None
                if last or error.code not in RETRIED_STATUSES:
                    raise RuntimeError(f"the server answered {error.code}") from None
            except (OSError, HTTPException, ValueError) as error:  # ValueError: not a URL
                if last or isinstance(error, ValueError):
                    raise self._unavailable(str(error) or type(error).__name__) from None
            time.sleep(FIRST_PAUSE * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _unavailable(self, received: str) -> SourceError:
        return SourceError(
            "the server cannot be used",
            path=self._url,
            expected=f"model {self._name!r}",
            received=" ".join(received.split())[:150],
            remedy="correct it and run the same command again: responses so far are kept",
        )


def completion_text(body: bytes) -> str:
    """The generated text of a completion; RuntimeError if the body has none."""
    try:
        content: Any = json.loads(body)
        text = content["choices"][0]["text"]
    except (ValueError, LookupError, TypeError):
        text = None
    if not isinstance(text, str):
        raise RuntimeError("the server's answer has no choices[0].text")
    return text
