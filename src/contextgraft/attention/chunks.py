"""Attention of a chunk of a prompt: on the cache and on itself, without a mask and without repeated keys.

transformers gives a chunk after the first a mask of chunk x length and, on most devices, repeats keys and
values for every query head. A plain causal chunk needs neither: it sees everything before it, and itself
causally.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from contextgraft.attention.kernels import KERNELS, AttentionBlock, AttentionResult, merge

NAME = "contextgraft_blocks"
SDPA = "sdpa"
MULTIPLE = 8  # of which GPU kernels need the head size to be one


def use_block_attention(model: Any) -> None:
    """Make a model that is prefilled in chunks attend by blocks, if its attention needs no mask of its own.

    A class that supports FlashAttention, which takes no mask, is correct without one; sparse attention adds
    to the mask, and stays as it is.
    """
    kernel, config = KERNELS.get(model.device.type), model.config.get_text_config(decoder=True)
    if (
        kernel is None
        or model.dtype not in kernel.dtypes
        or config._attn_implementation != SDPA
        or not _takes_any_attention(model, config)
    ):
        return
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, chunk_mask)
    config._attn_implementation = NAME


def _takes_any_attention(model: Any, config: Any) -> bool:
    """Whether all parts of the language model read the attention to use from one config, and need no mask."""
    parts = [part for part in model.modules() if getattr(part, "config", None) is config]
    models = [part for part in parts if isinstance(part, PreTrainedModel)]
    inner = [module for part in models if part is not model for module in part.modules()]
    return (
        bool(inner)
        and all(part._supports_flash_attn and part._can_set_attn_implementation() for part in models)
        and all(getattr(module, "config", config) is config for module in inner)
    )


def chunk_mask(
    *,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    allow_is_causal_skip: bool = True,
    **options: Any,
) -> torch.Tensor | None:
    """None where every query sees all keys up to its own, the last of which is the last key; else the mask.

    So None always has this meaning, also for fewer queries than keys.
    """
    if (
        allow_is_causal_skip
        and mask_function is causal_mask_function
        and kv_offset == 0
        and q_offset + q_length == kv_length
        and (attention_mask is None or bool(attention_mask.all()))
    ):
        return None
    mask: torch.Tensor | None = sdpa_mask(
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        allow_is_causal_skip=allow_is_causal_skip and q_length in {1, kv_length},
        **options,
    )
    return mask


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Called by transformers in each layer: q (B, H, Lq, D), k and v (B, K, L, D) -> (B, Lq, H, D)."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    tokens, length = query.shape[2], key.shape[2]
    chunk = causal and attention_mask is None and 1 < tokens < length
    if chunk and _fits_kernel(key, value, options):
        return attend_chunk(query, key, value, options.get("scaling")).transpose(1, 2).contiguous(), None
    if chunk:
        every = torch.ones(tokens, length, dtype=torch.bool, device=query.device)
        attention_mask = every.tril(length - tokens)[None, None]
    out: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, is_causal=is_causal, **options
    )
    return out


def _fits_kernel(key: torch.Tensor, value: torch.Tensor, options: dict[str, Any]) -> bool:
    """Whether the kernel of the device can compute this attention: no bias, dropout or softcap."""
    largest = KERNELS[key.device.type].head_size
    plain = options.get("position_bias") is None and options.get("softcap") is None
    fits = largest is None or max(key.shape[-1], value.shape[-1]) <= largest
    return plain and fits and not options.get("dropout")


def attend_chunk(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Causal attention of the last tokens of a text, (B, H, Lq, D), on all its keys (B, K, L, D).

    The sums of both blocks are kept in float32 or wider. A head size that differs between keys and values is
    padded with zeros, which change neither scores nor outputs.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    size = -(-max(key.shape[-1], value.shape[-1]) // MULTIPLE) * MULTIPLE
    before = key.shape[2] - query.shape[2]
    q, k, v = (_padded(x, size) for x in (query, key, value))
    out, lse = _block(q, k[:, :, before:], v[:, :, before:], causal=True, scale=scale)
    merge(out, lse, *_block(q, k[:, :, :before], v[:, :, :before], causal=False, scale=scale))
    return out[..., : value.shape[-1]].to(query.dtype)


def _block(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float
) -> AttentionResult:
    """Attention on one block of keys with log-sum-exps (B, H, Lq, 1), in float32 or wider."""
    out, lse = KERNELS[q.device.type].forward(AttentionBlock(q, k, v, causal, scale))
    dtype = torch.promote_types(q.dtype, torch.float32)
    return AttentionResult(out.to(dtype), lse.to(dtype).unsqueeze(-1))


def _padded(x: torch.Tensor, size: int) -> torch.Tensor:
    missing = size - x.shape[-1]
    return torch.nn.functional.pad(x, (0, missing)) if missing else x
