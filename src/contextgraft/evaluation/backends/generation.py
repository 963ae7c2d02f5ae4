"""Generation with a KV cache: chunked prefill, greedy decoding, caches cropped to a shared prefix."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from contextgraft.errors import library_errors

# RoPE types whose angles depend on the length of the whole prompt: it cannot be computed in chunks.
WHOLE_PROMPT_ROPE = frozenset({"dynamic", "longrope"})
# Arguments that the model's `forward` must have to be run from here.
REQUIRED_ARGUMENTS = frozenset({"past_key_values", "logits_to_keep"})

StopCriterion = Callable[[int, Sequence[int]], bool]  # whether row n, which generated these ids, is finished


@dataclass(frozen=True)
class CacheCapabilities:
    """KV-cache capabilities: reuse between calls, chunked prefill, cropping to a shared prefix."""

    cache: bool
    chunks: bool
    crops: bool


def cache_capabilities(config: Any) -> CacheCapabilities:
    """What the model of a configuration can do, read from the cache that it uses.

    Layers that forget (sliding windows, recurrent states) cannot be cropped to an earlier token.
    """
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if (
        model is None
        or model._is_stateful
        or not inspect.signature(model.forward).parameters.keys() >= REQUIRED_ARGUMENTS
    ):
        return CacheCapabilities(cache=False, chunks=False, crops=False)
    text = config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    sections = [rope, *(value for value in rope.values() if isinstance(value, dict))]  # one per layer type
    if any(str(section.get("rope_type")) in WHOLE_PROMPT_ROPE for section in sections):
        return CacheCapabilities(cache=True, chunks=False, crops=False)
    crops = all(_can_be_cropped(layer) for layer in DynamicCache(config=text).layers)
    return CacheCapabilities(cache=True, chunks=True, crops=crops)


def _can_be_cropped(layer: Any) -> bool:
    """Before transformers had `is_croppable`, all layers but recurrent ones could be cropped."""
    recurrent = isinstance(layer, LinearAttentionCacheLayerMixin)
    return getattr(layer, "is_croppable", not recurrent) and not getattr(layer, "is_sliding", False)


def prefill(model: Any, cache: Any, ids_BT: torch.Tensor, *, begin: int, chunk: int) -> tuple[Any, Any]:
    """Compute the tokens from `begin` on, `chunk` at a time; the cache and the last position's logits [B, V].

    Logits of other positions are never computed.
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
    model: Any, cache: Any, logits_BV: torch.Tensor, budgets: Sequence[int], stops: StopCriterion
) -> list[list[int]]:
    """The most likely tokens one by one, for each row until its budget is used up or it stops."""
    generated: list[list[int]] = [[] for _ in budgets]
    running = set(range(len(budgets)))
    while True:
        next_B = logits_BV.argmax(dim=-1)
        for row, token in enumerate(next_B.tolist()):
            if row in running:
                generated[row].append(token)
                if len(generated[row]) >= budgets[row] or stops(row, generated[row]):
                    running.remove(row)
        if not running:
            return generated
        out = model(input_ids=next_B[:, None], past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, logits_BV = out.past_key_values, out.logits[:, -1]


def crop_cache(cache: Any, length: int) -> Any:
    """The cache with its first `length` tokens only; None for a length of 0."""
    if cache is None or length == 0:
        return None
    cache.crop(length - cache.get_seq_length())
    return cache


def reset_dynamic_rope(model: Any, ids_BT: torch.Tensor) -> None:
    """Undo what a longer prompt left in a model whose rotary angles depend on the length.

    transformers keeps the angles of the longest prompt until a prompt comes that is short enough for the
    original ones; without this call, responses would depend on the order of the prompts.
    """
    model(input_ids=ids_BT[:, :1], use_cache=False, logits_to_keep=1)


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Token ids that end a response: those of the model's generation settings and of its tokenizer.

    CheckpointError for ids that are not numbers.
    """
    settings = getattr(model, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    with library_errors(
        "its generation settings have no usable eos_token_id", str(model.config.name_or_path)
    ):
        return frozenset(int(token) for token in [*ids, tokenizer.eos_token_id] if token is not None)
