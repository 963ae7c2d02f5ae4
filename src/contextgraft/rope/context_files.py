"""Small files of a model that repeat the length of its context: for the tokenizer, generation, embeddings."""

from collections.abc import Callable, Mapping
from typing import Any

TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
EMBEDDING_CONFIG = "sentence_bert_config.json"  # of sentence-transformers, which vLLM reads, too
LENGTH = "model_max_length"


def tokenizer_config(content: Mapping[str, Any], context: int) -> dict[str, Any]:
    """A tokenizer_config.json for a context of that many tokens; a longer limit stays, and any for 0."""
    return dict(content) if not context else {**content, LENGTH: max(_number(content.get(LENGTH)), context)}


def generation_config(content: Mapping[str, Any], context: int) -> dict[str, Any]:
    """A generation_config.json that lets a prompt be as long as the context.

    transformers refuses to generate from a prompt longer than `max_length`.
    """
    return _at_least(content, "max_length", context)


def embedding_config(content: Mapping[str, Any], context: int) -> dict[str, Any]:
    """A sentence_bert_config.json that does not cut texts before the end of the context."""
    return _at_least(content, "max_seq_length", context)


CONTEXT_FILES: dict[str, Callable[[Mapping[str, Any], int], dict[str, Any]]] = {
    TOKENIZER_CONFIG: tokenizer_config,
    GENERATION_CONFIG: generation_config,
    EMBEDDING_CONFIG: embedding_config,
}


def _at_least(content: Mapping[str, Any], key: str, context: int) -> dict[str, Any]:
    """The content with a length that is there and shorter than the context set to it."""
    return {**content, key: context} if 0 < _number(content.get(key)) < context else dict(content)


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0
