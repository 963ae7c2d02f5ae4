"""How large an adapter of a Llama-like model gets, from the sizes in its config.json alone."""

from pathlib import Path

from contextgraft.adapter.architecture import FACTORISED, Kind
from contextgraft.adapter.selection import Selection
from contextgraft.checkpoint.header import TensorInfo
from contextgraft.config.shape import STORED, Shape

DENSE = 4  # bytes of an element of a norm's delta, which is kept in float32


def tensors(shape: Shape) -> tuple[TensorInfo, ...]:
    """Every tensor of a checkpoint of this shape, by the names of Llama, without a place in a file."""
    wide, narrow = shape.heads * shape.head, shape.kv_heads * shape.head
    layer = {
        "input_layernorm": (shape.hidden,),
        "post_attention_layernorm": (shape.hidden,),
        "self_attn.q_proj": (wide, shape.hidden),
        "self_attn.k_proj": (narrow, shape.hidden),
        "self_attn.v_proj": (narrow, shape.hidden),
        "self_attn.o_proj": (shape.hidden, wide),
        "mlp.gate_proj": (shape.intermediate, shape.hidden),
        "mlp.up_proj": (shape.intermediate, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.intermediate),
    }
    rows = (shape.vocabulary, shape.hidden)
    top = {"model.embed_tokens": rows, "model.norm": (shape.hidden,)} | (
        {} if shape.tied else {"lm_head": rows}
    )
    layers = {
        f"model.layers.{number}.{name}": sides
        for number in range(shape.layers)
        for name, sides in layer.items()
    }
    return tuple(
        TensorInfo(f"{name}.weight", "BF16", sides, "", 0, 0) for name, sides in (top | layers).items()
    )


def adapter_bytes(shape: Shape, selection: Selection, rank: int) -> int:
    """Bytes of the factors in the model's dtype, every module of this rank or that of its smaller side."""
    return sum(
        min(rank, *info.shape) * sum(info.shape) * STORED
        for info in tensors(shape)
        if selection.kind(info, Path()) in FACTORISED
    )


def dense_bytes(shape: Shape, selection: Selection) -> int:
    """Bytes of the deltas of norms, which our own backend keeps beside the factors."""
    chosen = (info for info in tensors(shape) if selection.kind(info, Path()) is Kind.DENSE)
    return sum(info.numel * DENSE for info in chosen)
