"""How large an adapter becomes, from the sizes of the model alone."""

from pathlib import Path

from contextgraft.adapter.extract.rank_spec import TensorSelection
from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.formats.tensor_names import FACTORISED, TensorRole
from contextgraft.planning.shapes.model_shape import ModelShape

STORED = 2  # bytes of an element of a factor, in bfloat16 or float16
DENSE = 4  # bytes of an element of a norm's delta, which is kept in float32


def tensor_infos(shape: ModelShape) -> tuple[TensorInfo, ...]:
    """Every tensor of a checkpoint of this shape, without a position in a file."""
    return tuple(TensorInfo(name, "BF16", sides, "", 0, 0) for name, sides in shape.tensors.items())


def factorised(shape: ModelShape, selection: TensorSelection) -> list[TensorInfo]:
    """The tensors that get factors."""
    return [info for info in tensor_infos(shape) if selection.role(info, Path()) in FACTORISED]


def adapter_bytes(shape: ModelShape, selection: TensorSelection, rank: int) -> int:
    """Bytes of the factors: every module has this rank, or that of its smaller side."""
    chosen = factorised(shape, selection)
    return sum(min(rank, *info.shape) * sum(info.shape) * STORED for info in chosen)


def dense_bytes(shape: ModelShape, selection: TensorSelection) -> int:
    """Bytes of the deltas of norms and biases, which our own backend stores next to the factors."""
    chosen = (info for info in tensor_infos(shape) if selection.role(info, Path()) is TensorRole.DENSE)
    return sum(info.numel * DENSE for info in chosen)
