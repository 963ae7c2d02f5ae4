"""Log-probabilities of every token of a text, chunk by chunk: the logits of a long text never exist at once.

Legend of shape suffixes: B texts of one length, T their tokens, C tokens of a chunk, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch

from contextgraft.evaluation.backends.generation import cache_capabilities

PASS_TOKENS = 4096  # most tokens in one forward pass: texts in parallel, or a chunk of one
LOGITS = 1 << 26  # most logits at once: 256 MB in float32

Item = TypeVar("Item")


class LogprobChunk(NamedTuple):
    """Log-probabilities [B, C, V] in float32 of the tokens after `start`, `start + 1`, ..."""

    start: int
    logs_BCV: torch.Tensor


def logprob_chunks(model: Any, ids_BT: torch.Tensor) -> Iterator[LogprobChunk]:
    """What the model predicts after each token, left to right; only its cache grows with the text.

    A model that cannot be prefilled in chunks (see generation.CacheCapabilities) reads the whole text again
    for each chunk of logits.
    """
    step = chunk_tokens(model, len(ids_BT))
    logits_of = cached_logits if cache_capabilities(model.config).chunks else uncached_logits
    logits = logits_of(model, ids_BT, step)
    for start in range(0, ids_BT.shape[1], step):
        with torch.inference_mode():
            logs_BCV = torch.log_softmax(next(logits).float(), dim=-1)
        yield LogprobChunk(start, logs_BCV)


def cached_logits(model: Any, ids_BT: torch.Tensor, step: int) -> Iterator[torch.Tensor]:
    """Logits [B, C, V] of each chunk, with its predecessors in the KV cache."""
    cache = None
    for chunk_BC in torch.split(ids_BT, step, dim=1):
        out = model(input_ids=chunk_BC, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        yield out.logits


def uncached_logits(model: Any, ids_BT: torch.Tensor, step: int) -> Iterator[torch.Tensor]:
    """Logits [B, C, V] of each chunk, from the whole text every time."""
    for indices in torch.split(torch.arange(ids_BT.shape[1], device=ids_BT.device), step):
        yield model(input_ids=ids_BT, use_cache=False, logits_to_keep=indices).logits


def chunk_tokens(model: Any, texts: int) -> int:
    """Tokens per chunk for this many texts in parallel."""
    return max(1, min(PASS_TOKENS, LOGITS // vocabulary_size(model)) // texts)


def vocabulary_size(model: Any) -> int:
    """How many tokens a model predicts probabilities for."""
    rows: int = model.get_output_embeddings().weight.shape[0]
    return rows


def forward_batches(items: Sequence[Item], length: int) -> Iterator[Sequence[Item]]:
    """Texts of one length, as many as one forward pass takes."""
    size = max(1, PASS_TOKENS // length)
    for start in range(0, len(items), size):
        yield items[start : start + size]


def negative_log_likelihoods(model: Any, ids_BT: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood in nats of every token but the first, [B, T - 1], float32 on the CPU."""
    ids_BT = ids_BT.to(model.device)
    nats: list[torch.Tensor] = []
    for start, logs_BCV in logprob_chunks(model, ids_BT):
        next_BC = ids_BT[:, start + 1 : start + 1 + logs_BCV.shape[1]]
        logs_BC = logs_BCV[:, : next_BC.shape[1]].gather(2, next_BC[..., None])[..., 0]
        nats.append(-logs_BC.cpu())
    return torch.cat(nats, dim=1)


def kl_divergence(reference_CV: torch.Tensor, other_CV: torch.Tensor) -> torch.Tensor:
    """KL(reference || other) in nats, [C], of log-probabilities; tokens of probability 0 add nothing."""
    terms_CV = reference_CV.exp() * (reference_CV - other_CV)
    return torch.where(reference_CV == -torch.inf, 0.0, terms_CV).sum(dim=-1)
