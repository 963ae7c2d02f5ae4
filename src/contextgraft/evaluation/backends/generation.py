"""Prompts through a model: prefill in chunks, greedy answers, caches cut back to what the next shares."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, DynamicCache

# Rotary angles that depend on the length of the whole prompt: no part of it can be computed before the rest.
WHOLE_PROMPT = frozenset({"dynamic", "longrope"})
NEEDED = frozenset({"past_key_values", "logits_to_keep"})  # arguments of a model that can be driven from here


@dataclass(frozen=True)
class Ability:
    """What a model's cache allows: to be handed on, prompts in chunks, cutting back to a shared beginning."""

    cache: bool
    chunks: bool
    crops: bool


class Ends(Protocol):
    """Whether a text is finished."""

    def __call__(self, row: int, ids: Sequence[int]) -> bool:
        """Whether what was generated for that row of the batch needs no further token."""


def ability(config: Any) -> Ability:
    """What the model of a configuration can do, asked of the cache it uses.

    Layers that forget (sliding windows, recurrent states) cannot be cut back to an earlier token.
    """
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if (
        model is None
        or model._is_stateful
        or not inspect.signature(model.forward).parameters.keys() >= NEEDED
    ):
        return Ability(cache=False, chunks=False, crops=False)
    text = config.get_text_config(decoder=True)
    if rope_types(getattr(text, "rope_parameters", None) or {}) & WHOLE_PROMPT:
        return Ability(cache=True, chunks=False, crops=False)
    layers = DynamicCache(config=text).layers
    crops = all(layer.is_croppable and not getattr(layer, "is_sliding", False) for layer in layers)
    return Ability(cache=True, chunks=True, crops=crops)


def rope_types(parameters: dict[str, Any]) -> set[str]:
    """Kinds of rotary angles of a configuration, which may name them for each kind of layer."""
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return {str(each.get("rope_type")) for each in [parameters, *nested]}


def prefill(model: Any, cache: Any, ids_BT: torch.Tensor, *, begin: int, chunk: int) -> tuple[Any, Any]:
    """Compute tokens `begin` on, `chunk` at a time; the cache and the last position's logits [B, V].

    No other position's logits are ever made.
    """
    logits_BV = None
    for start in range(begin, ids_BT.shape[1], chunk):
        out = model(
            input_ids=ids_BT[:, start : start + chunk],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache, logits_BV = out.past_key_values, out.logits[:, -1]
    assert logits_BV is not None, "a prompt has at least one token to compute"
    return cache, logits_BV


def greedy(
    model: Any, cache: Any, logits_BV: torch.Tensor, budgets: Sequence[int], ends: Ends
) -> list[list[int]]:
    """The likeliest tokens one by one, for each row until its budget is spent or it ends."""
    generated: list[list[int]] = [[] for _ in budgets]
    running = set(range(len(budgets)))
    while True:
        next_B = logits_BV.argmax(dim=-1)
        for row, token in enumerate(next_B.tolist()):
            if row in running:
                generated[row].append(token)
                if len(generated[row]) >= budgets[row] or ends(row, generated[row]):
                    running.remove(row)
        if not running:
            return generated
        out = model(input_ids=next_B[:, None], past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, logits_BV = out.past_key_values, out.logits[:, -1]


def cut_back(cache: Any, length: int) -> Any:
    """The cache with its first `length` tokens only; none for a length of 0."""
    if cache is None or length == 0:
        return None
    cache.crop(length - cache.get_seq_length())
    return cache


def forget_longer(model: Any, ids_BT: torch.Tensor) -> None:
    """Undo what a longer prompt left in a model whose rotary angles depend on the length.

    transformers keeps the angles of the longest prompt until one comes that is short enough for the original
    ones; without this, answers would depend on the order of the prompts.
    """
    model(input_ids=ids_BT[:, :1], use_cache=False, logits_to_keep=1)


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens after which a model says no more: those of its generation settings and its tokenizer's."""
    settings = getattr(model, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    return frozenset(int(token) for token in [*ids, tokenizer.eos_token_id] if token is not None)
