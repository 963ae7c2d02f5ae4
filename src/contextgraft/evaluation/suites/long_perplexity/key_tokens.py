"""Which tokens of a text need the far context, by the predictions of one model.

Legend of shape suffixes: T tokens of a text but its first ones.
"""

from collections.abc import Sequence
from typing import Any

import torch

from contextgraft.evaluation.backends.logprobs import negative_log_likelihoods
from contextgraft.evaluation.suites.long_perplexity.reference import short_contexts

MIN_GAIN = 2.0  # nats: LSD, the log-probability gained by the far context
MIN_LOGPROB = -2.0  # nats: LCL, the log-probability with the far context


def key_positions(model: Any, ids: Sequence[int], short: int, begin: int) -> list[int]:
    """Positions of the key tokens of a text, counted from 0.

    Log-probabilities with the whole text before a token are compared with those that the model has when it
    reads at most `short` tokens, and at least three quarters of them; the first `begin` tokens of the text
    (begin tokens) are always among them. Tokens at positions below `short` have the same context both times.
    Source: L. Fang et al., What is Wrong with Perplexity for Long-context Language Modeling? (2024), arXiv
    2410.23771, sections 2 and 3.
    """
    nats_T = negative_log_likelihoods(model, torch.tensor([list(ids)]))[0]
    long_T = -nats_T[short - 1 :]
    short_T = short_context_logprobs(model, ids, short, begin)
    return [short + int(index) for index in torch.nonzero(is_key(long_T, short_T))[:, 0]]


def is_key(long_T: torch.Tensor, short_T: torch.Tensor) -> torch.Tensor:
    """Whether a token is a key token, by its log-probabilities with the long and with the short context."""
    return (long_T - short_T > MIN_GAIN) & (long_T > MIN_LOGPROB)


def short_context_logprobs(model: Any, ids: Sequence[int], short: int, begin: int) -> torch.Tensor:
    """Log-probabilities of the tokens from position `short` on, in windows of `short` tokens each."""
    logs = []
    starts = short_contexts(short, len(ids))
    for start in starts:
        end = min(start + starts.step, len(ids))
        window = [*ids[:begin], *ids[end - short + begin : end]]
        nats_T = negative_log_likelihoods(model, torch.tensor([window]))[0]
        logs.append(-nats_T[start - end :])
    return torch.cat(logs) if logs else torch.empty(0)
