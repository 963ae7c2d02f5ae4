"""How large an adapter of a Llama-like model gets, from the sizes in its config.json alone."""

from pathlib import Path

from contextgraft.adapter.extract.rank_spec import Selection
from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.formats.tensor_names import FACTORISED, TensorRole
from contextgraft.planning.model_shape import STORED, Shape

DENSE = 4  # bytes of an element of a norm's delta, which is kept in float32


def tensors(shape: Shape) -> tuple[TensorInfo, ...]:
    """Every tensor of a checkpoint of this shape, by the names of Llama, without a place in a file."""
    norms = ("input_layernorm", "post_attention_layernorm")
    layer: dict[str, tuple[int, ...]] = {**dict.fromkeys(norms, (shape.hidden,)), **shape.linear}
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


def factorised(shape: Shape, selection: Selection) -> list[TensorInfo]:
    """The tensors that get factors."""
    return [info for info in tensors(shape) if selection.role(info, Path()) in FACTORISED]


def adapter_bytes(shape: Shape, selection: Selection, rank: int) -> int:
    """Bytes of the factors in the model's dtype, every module of this rank or that of its smaller side."""
    chosen = factorised(shape, selection)
    return sum(min(rank, *info.shape) * sum(info.shape) * STORED for info in chosen)


def dense_bytes(shape: Shape, selection: Selection) -> int:
    """Bytes of the deltas of norms, which our own backend keeps beside the factors."""
    chosen = (info for info in tensors(shape) if selection.role(info, Path()) is TensorRole.DENSE)
    return sum(info.numel * DENSE for info in chosen)
