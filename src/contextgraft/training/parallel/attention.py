"""The ring under a name of its own among the attention functions of transformers, and what it refuses."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from contextgraft.errors import InputError
from contextgraft.rope.settings import RopeSettings
from contextgraft.training.parallel import ring
from contextgraft.training.parallel.communication import ContextParallel

NAME = "contextgraft_ring"
ROPE_TYPES = ("default", "linear", "yarn", "llama3")  # the same frequencies whatever part a rank holds
WITHOUT = ("sliding_window", "softcap", "s_aux", "is_causal")  # of these, only None (or True) is the ring's


def register() -> None:
    """Make `attn_implementation=NAME` known; again changes nothing.

    The peers are not in the function: they come with each call, `model(..., context_parallel=cp)`.
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
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in each layer: q (B, H, L, D), k and v (B, K, L, D) -> (B, L, H, D)."""
    if context_parallel is None:
        raise InputError(
            f"attention {NAME} got no peers",
            remedy="call the model with context_parallel=...; some architectures do not hand it on",
        )
    if attention_mask is not None or dropout:
        raise _unsupported("a mask" if attention_mask is not None else "dropout")
    for option in WITHOUT:
        if others.get(option) not in (None, True):
            raise _unsupported(option)
    if getattr(module, "layer_idx", 0) == 0:
        check_positions(position_ids, context_parallel, query.shape[2])
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return ring.attention(query, key, value, context_parallel, scale).transpose(1, 2).contiguous(), None


def no_mask(*_: Any, attention_mask: torch.Tensor | None = None, **__: Any) -> None:
    """Causal is all there is: nothing is built, and a padding mask is refused instead of being forgotten."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise _unsupported("a padding mask")


def check_positions(position_ids: torch.Tensor | None, cp: ContextParallel, held: int) -> None:
    """Without its own positions a rank's gradients are wrong while the loss hardly shows it."""
    expected = cp.positions(held * cp.layout.ring * cp.layout.heads)
    if position_ids is None or not bool((position_ids.cpu() == expected).all()):
        raise InputError(
            "positions are not those of one sequence over all ranks",
            received="none" if position_ids is None else "others (packed documents, or another layout)",
            remedy="give context_parallel.positions(length) as position_ids",
        )


def check_rope(rope: RopeSettings) -> None:
    """A rope whose frequencies follow the longest position seen would differ from rank to rank."""
    if rope.rope_type not in ROPE_TYPES:
        raise InputError(
            "this type of RoPE is not the same on all ranks",
            expected=" or ".join(ROPE_TYPES),
            received=rope.rope_type,
            remedy="train in one process, or give theta",
        )


def check_windows(config: Mapping[str, Any]) -> None:
    """Layers that see a part of the sequence may say so by masks alone, which the ring does not build."""
    kinds = set(config.get("layer_types") or ()) - {"full_attention"}
    windows = [name for name in ("sliding_window", "attention_chunk_size") if config.get(name)]
    if kinds or (windows and config.get("use_sliding_window", True)):
        raise _unsupported(" and ".join(sorted(kinds) or windows))


def _unsupported(what: str) -> InputError:
    return InputError(
        f"context parallelism knows plain causal attention only, not {what}",
        remedy="pad on the right with loss weight 0, or train in one process",
    )
