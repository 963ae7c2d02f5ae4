"""Ring attention registered as an attention function of transformers, and the cases it does not support."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from contextgraft.config.training import Recipe
from contextgraft.errors import InputError
from contextgraft.rope.settings import RopeSettings
from contextgraft.training.data.document_starts import last_start
from contextgraft.training.model import parse_config
from contextgraft.training.parallel import ring
from contextgraft.training.parallel.communication import ContextParallel
from contextgraft.training.parallel.layout import TORCH

NAME = "contextgraft_ring"
ROPE_TYPES = ("default", "linear", "yarn", "llama3")  # frequencies do not depend on the positions of a rank
SINKS = ".sinks"  # how the names of their tensors end
LAYER_TYPES = {"full_attention", "sliding_attention"}


def register() -> None:
    """Make `attn_implementation=NAME` available; a second call changes nothing.

    The peers are passed with each call of the model: `model(..., context_parallel=cp)`.
    """
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, no_mask)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    context_parallel: ContextParallel | None = None,
    position_ids: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Called by transformers in each layer: q (B, H, L, D), k and v (B, K, L, D) -> (B, L, H, D)."""
    if context_parallel is None:
        raise InputError(
            f"attention {NAME} received no peers",
            remedy="call the model with context_parallel=...; some architectures do not pass it on",
        )
    if attention_mask is not None or dropout:
        raise _unsupported("a mask" if attention_mask is not None else "dropout")
    if options.get("is_causal") not in (None, True):
        raise _unsupported("is_causal")
    if getattr(module, "layer_idx", 0) == 0:
        check_positions(position_ids, context_parallel, query.shape[2])
    window = options.get("sliding_window")
    if window != layer_window(module):
        raise _unsupported("a sliding window that the class does not pass on, or that is not in the config")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = ring.attention(
        query,
        key,
        value,
        context_parallel,
        scale,
        window=window,
        softcap=options.get("softcap"),
        sinks=options.get("s_aux"),
    )
    return out.transpose(1, 2).contiguous(), None


def no_mask(*_: Any, attention_mask: torch.Tensor | None = None, **__: Any) -> None:
    """Build no mask, since attention is causal; a padding mask raises InputError, or it would be ignored."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise _unsupported("a padding mask")


def layer_window(module: torch.nn.Module) -> int | None:
    """Tokens that a token of this attention module sees by its config, itself included; None for all."""
    config: Any = module.config
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and kinds[module.layer_idx] != "sliding_attention":
        return None
    window = getattr(config, "sliding_window", None)
    return int(window) if window and getattr(config, "use_sliding_window", True) else None


def check_positions(position_ids: torch.Tensor | None, cp: ContextParallel, tokens: int) -> None:
    """Check the positions of a rank: wrong ones make its gradients wrong, which the loss hardly shows.

    Those that skip are moved to later positions, by as much as the token before or more. Those of documents
    that do not see each other begin at 0 in each.
    """
    expected = cp.positions(tokens * cp.layout.ring * cp.layout.heads)
    if cp.starts is not None:
        expected = torch.stack([expected - last_start(expected, starts) for starts in cp.starts])
    moved = torch.ones(1, 1) if position_ids is None else position_ids.cpu() - expected
    skips = cp.skipping and bool((moved >= 0).all() and (moved.diff(dim=-1) >= 0).all())
    if position_ids is None or not (skips or not moved.any()):
        raise InputError(
            "position_ids are not those of one sequence over all ranks",
            received="none" if position_ids is None else "others (packed documents, or another layout)",
            remedy="pass context_parallel.positions(length)",
        )


def check_rope(rope: RopeSettings) -> None:
    """Check that RoPE's frequencies do not depend on the longest position, which differs between ranks."""
    if rope.rope_type not in ROPE_TYPES:
        raise InputError(
            "this type of RoPE would differ between ranks",
            expected=" or ".join(ROPE_TYPES),
            received=rope.rope_type,
            remedy="train in one process (one GPU needs no torchrun), or set theta in the recipe",
        )


def check_supported(
    config: Mapping[str, Any], recipe: Recipe, layout: str, tensors: Iterable[str] = ()
) -> None:
    """Check that the ring computes all that mixes tokens: it builds no mask of its own.

    `tensors` are the names of the base's: attention sinks are weights, and no key of a config.
    Kinds of layers and windows are those of transformers' class, also where the config does not name them.
    Layouts but torch's own take windows, soft caps, sinks and documents that do not see each other.
    """
    parsed = parse_config(config).get_text_config(decoder=True)
    others = set(getattr(parsed, "layer_types", None) or ()) - LAYER_TYPES
    if others or getattr(parsed, "attention_chunk_size", None):
        raise _unsupported(" and ".join(sorted(others)) or "attention_chunk_size")
    head_size = getattr(parsed, "qk_head_dim", None) or getattr(parsed, "head_dim", None)
    if getattr(parsed, "v_head_dim", None) not in (None, head_size):
        raise _unsupported("values with another head size than queries and keys")
    windows = getattr(parsed, "sliding_window", None) and getattr(parsed, "use_sliding_window", True)
    wanted = {
        "sliding windows": windows,
        "attention sinks": any(name.endswith(SINKS) for name in tensors),
        "soft caps (attn_logit_softcapping)": getattr(parsed, "attn_logit_softcapping", None) is not None,
        "mask: block_causal": recipe.has_block_causal,
        "activation_checkpointing: selective": recipe.activation_checkpointing == "selective",
    }
    refused = [name for name, needed in wanted.items() if needed]
    if layout == TORCH and refused:
        raise InputError(f"layout torch does not support {refused[0]}", remedy="use another layout")


def _unsupported(what: str) -> InputError:
    return InputError(
        f"context parallelism supports causal attention only, not {what}",
        remedy="pad on the right with loss weight 0, or train in one process: one GPU needs no torchrun",
    )
