"""Predictions for every token of a text, a chunk at a time: no logits of a whole long text are ever held.

Legend of shape suffixes: B texts of one length, T their tokens, C tokens of a chunk, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch

from contextgraft.evaluation.backends.generation import ability

PASS_TOKENS = 4096  # most tokens in one call of a model: texts side by side, or a chunk of one
LOGITS = 1 << 26  # most logits at once: 256 MB in float32

Item = TypeVar("Item")


class Chunk(NamedTuple):
    """Log-probabilities [B, C, V] in float32 of the tokens after `start`, `start + 1`, ..."""

    start: int
    logs_BCV: torch.Tensor


def chunks(model: Any, ids_BT: torch.Tensor) -> Iterator[Chunk]:
    """What the model predicts after each token, left to right; memory grows with its cache only.

    A model that needs the whole text for every part of it (see decoding.Ability) computes it again for each
    chunk of logits.
    """
    step = chunk_tokens(model, len(ids_BT))
    way = continued if ability(model.config).chunks else repeated
    logits = way(model, ids_BT, step)
    for start in range(0, ids_BT.shape[1], step):
        with torch.inference_mode():
            logs_BCV = torch.log_softmax(next(logits).float(), dim=-1)
        yield Chunk(start, logs_BCV)


def continued(model: Any, ids_BT: torch.Tensor, step: int) -> Iterator[torch.Tensor]:
    """Logits [B, C, V] of each chunk, whose predecessors are in the cache."""
    cache = None
    for chunk_BC in torch.split(ids_BT, step, dim=1):
        out = model(input_ids=chunk_BC, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        yield out.logits


def repeated(model: Any, ids_BT: torch.Tensor, step: int) -> Iterator[torch.Tensor]:
    """Logits [B, C, V] of each chunk, from the whole text every time."""
    for places in torch.split(torch.arange(ids_BT.shape[1], device=ids_BT.device), step):
        yield model(input_ids=ids_BT, use_cache=False, logits_to_keep=places).logits


def chunk_tokens(model: Any, texts: int) -> int:
    """Tokens of a chunk of so many texts side by side."""
    return max(1, min(PASS_TOKENS, LOGITS // vocabulary(model)) // texts)


def vocabulary(model: Any) -> int:
    """How many tokens a model tells apart."""
    rows: int = model.get_output_embeddings().weight.shape[0]
    return rows


def batches(items: Sequence[Item], length: int) -> Iterator[Sequence[Item]]:
    """Texts of one length, as many side by side as one call takes."""
    size = max(1, PASS_TOKENS // length)
    for start in range(0, len(items), size):
        yield items[start : start + size]
