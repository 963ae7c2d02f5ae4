"""Small files of a model that repeat the length of its context: the tokenizer's and the generation config."""

from collections.abc import Callable, Mapping
from typing import Any

TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
LENGTH = "model_max_length"


def tokenizer_config(content: Mapping[str, Any], context: int) -> dict[str, Any]:
    """A tokenizer_config.json for a context of that many tokens; a longer limit stays, and any for 0."""
    return dict(content) if not context else {**content, LENGTH: max(_number(content.get(LENGTH)), context)}


def generation_config(content: Mapping[str, Any], context: int) -> dict[str, Any]:
    """A generation_config.json that lets a prompt be as long as the context.

    transformers refuses to generate from a prompt longer than `max_length`.
    """
    if not 0 < _number(content.get("max_length")) < context:
        return dict(content)
    return {**content, "max_length": context}


CONTEXT_FILES: dict[str, Callable[[Mapping[str, Any], int], dict[str, Any]]] = {
    TOKENIZER_CONFIG: tokenizer_config,
    GENERATION_CONFIG: generation_config,
}


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0
