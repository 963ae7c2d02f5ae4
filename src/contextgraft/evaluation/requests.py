"""What an lm-eval request holds: a prompt as token ids in decimal, and how it is to be continued."""

from collections.abc import Mapping, Sequence
from typing import Any

from contextgraft.checkpoint.digest import json_digest

Arguments = tuple[str, Mapping[str, Any]]


def ids_to_request(ids: Sequence[int]) -> str:
    """Token ids as the text of an lm-eval request."""
    return " ".join(map(str, ids))


def request_to_ids(request: str) -> list[int]:
    """The token ids of a request."""
    return [int(token) for token in request.split()]


def ids_digest(ids: Sequence[int]) -> str:
    """Digest of a prompt's token ids."""
    return json_digest(list(ids))


def arguments(prompt: str, budget: int, stop: Sequence[str]) -> Arguments:
    """A request for the greedy continuation, `budget` tokens at most, until one of the texts."""
    return prompt, {"do_sample": False, "until": list(stop), "max_gen_toks": budget}


def cut(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the stop texts."""
    for each in stop:
        text = text.split(each, maxsplit=1)[0] if each else text
    return text
