"""Questions: prompts as exact token ids with the expected answer, and checks of the tokenizer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from contextgraft.checkpoint.digest import json_digest
from contextgraft.errors import InputError
from contextgraft.evaluation.backends.base import GenerationRequest
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.prompts.haystack import Haystack, TokenizedHaystack, tokenize_haystack
from contextgraft.prompts.tokens import Encode

MAX_UNKNOWN = 0.01  # share of a haystack's tokens that may be unknown to the tokenizer


@dataclass(frozen=True)
class Question:
    """One prompt and its expected answer.

    `length` counts prompt and answer tokens, `budget` the tokens that may be generated; `prompt_spec` is the
    JSON that rebuilds the prompt (column `recipe` of the samples).
    """

    suite: str
    task: str
    index: int
    seed: int
    ids: tuple[int, ...]
    answer: str
    budget: int
    scoring: str
    prompt_spec: str
    length: int | None = None
    depth: float | None = None
    distractors: int | None = None
    kind: str | None = None
    haystack: str | None = None
    document: int | None = None
    stop: tuple[str, ...] = ()
    chat: bool = False

    @property
    def request(self) -> GenerationRequest:
        """Prompt ids, answer budget and stop strings, as a backend gets them."""
        return GenerationRequest(self.ids, self.budget, self.stop)


def ids_digest(ids: Sequence[int]) -> str:
    """Digest of a prompt's token ids."""
    return json_digest(list(ids))


def json_line(prompt_spec: dict[str, Any]) -> str:
    """A prompt's specification as one line of JSON, keys sorted."""
    return json.dumps(prompt_spec, sort_keys=True, ensure_ascii=False)


def encoded_haystack(haystack: Haystack, tokenizer: PromptTokenizer) -> TokenizedHaystack:
    """A haystack in ids; InputError if more than 1 % of its tokens are unknown to the tokenizer."""
    tokenized = tokenize_haystack(haystack, tokenizer.encode, tokenizer.token_ends)
    unknown = tokenized.ids.count(tokenizer.hf.unk_token_id)
    if not tokenized.ids or unknown > MAX_UNKNOWN * len(tokenized.ids):
        raise InputError(
            f"haystack {haystack.name}: the model's tokenizer lacks its words",
            path=tokenizer.path,
            expected=f"at most {MAX_UNKNOWN:.0%} unknown",
            received=f"{unknown} of {len(tokenized.ids)} tokens",
            remedy="name a text in its own words: --haystack FILE, or the haystack of a needle --format "
            "(in a study evaluation.needle.haystacks or .format)",
        )
    return tokenized


def checked_encode(label: str, tokenizer: PromptTokenizer) -> Encode:
    """An `encode` that raises InputError, naming `label`, for a text with words unknown to the tokenizer."""
    unknown = tokenizer.hf.unk_token_id

    def encode(text: str) -> list[int]:
        ids = tokenizer.encode(text)
        if unknown is not None and unknown in ids:
            raise InputError(
                f"{label}: the model's tokenizer lacks words of {text!r}",
                path=tokenizer.path,
                remedy="write a needle format in its own words, and name it with --format (in a study "
                "evaluation.needle.format)",
            )
        return ids

    return encode


def check_answer(answer: str, tokenizer: PromptTokenizer) -> None:
    """Raise InputError if the tokenizer cannot reproduce the answer, so that no model could score."""
    decoded = tokenizer.decode(tokenizer.encode(answer))
    if decoded.split() != answer.split():
        raise InputError(
            "the model's tokenizer cannot write the expected answer",
            path=tokenizer.path,
            expected=repr(answer),
            received=repr(decoded),
        )
