"""lm-eval's client of OpenAI-compatible servers, given token ids instead of text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import requests
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

from contextgraft.errors import InputError
from contextgraft.evaluation.harness import quiet
from contextgraft.evaluation.requests import request_to_ids

RETRIES = 3  # times a request is made before it counts as refused
# Another question cannot mend these: who may ask, and which model. Other statuses concern one request.
HOPELESS = frozenset({401, 403, 404, 405})


class ServerLM(LocalCompletionsAPI):  # type: ignore[misc]  # lm-eval is untyped
    """Requests are token ids in decimal and go to the server as ids. No key is sent.

    A server that cannot be reached or does not know the model is an InputError; what it refuses or cannot do
    for one request a RuntimeError.
    """

    def __init__(self, url: str, name: str, folder: Path, *, concurrent: int, longest: int) -> None:
        super().__init__(
            base_url=url,
            model=name,
            tokenizer=str(folder),
            tokenizer_backend="huggingface",
            num_concurrent=concurrent,
            max_length=longest + 1,
            max_retries=RETRIES,
            header={"Content-Type": "application/json"},
            timeout=3600,  # seconds; a prompt of a million tokens takes long
        )
        self._url = url
        self._name = name

    def tok_encode(self, string: str | Sequence[str], *_: Any, **__: Any) -> Any:
        """The ids of a request, or of each."""
        if isinstance(string, str):
            return request_to_ids(string)
        return [request_to_ids(each) for each in string]

    def generate_until(self, requests_: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Greedy continuations of prompts."""
        try:
            with quiet():
                outputs: list[str] = super().generate_until(requests_, disable_tqdm=disable_tqdm)
        except (aiohttp.ClientError, requests.RequestException, TimeoutError) as error:
            status = status_of(error)
            if status is None or status in HOPELESS:
                raise InputError(
                    "the server cannot be asked",
                    path=self._url,
                    expected=f"model {self._name!r}",
                    received=str(error)[:150] or type(error).__name__,
                    remedy="mend it and run the same command again: answers so far are kept",
                ) from None
            raise RuntimeError(f"the server answered {status}") from None
        return outputs


def status_of(error: Exception) -> int | None:
    """The HTTP status of an error; None if no answer came at all."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return int(error.response.status_code)
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status
    return None
