"""How large an adapter becomes, from the sizes of the model alone."""

from collections.abc import Iterable
from pathlib import Path

from contextgraft.adapter.extract.rank_spec import TensorSelection, largest_rank
from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.errors import InputError
from contextgraft.formats.tensor_names import FACTORISED, TensorRole
from contextgraft.planning.shapes.model_shape import ModelShape

STORED = 2  # bytes of an element of a factor, in bfloat16 or float16
DENSE = 4  # bytes of an element of a norm's delta, which is kept in float32


def tensor_infos(shape: ModelShape) -> tuple[TensorInfo, ...]:
    """Every tensor of a checkpoint of this shape, without a position in a file."""
    return tuple(TensorInfo(name, "BF16", sides, "", 0, 0) for name, sides in shape.tensors.items())


def factorised(tensors: Iterable[TensorInfo], selection: TensorSelection) -> list[TensorInfo]:
    """Those of a model's tensors that get factors."""
    return [info for info in tensors if selection.role(info, Path()) in FACTORISED]


def check_ranks(ranks: Iterable[int], tensors: Iterable[TensorInfo], selection: TensorSelection) -> None:
    """Raise InputError for ranks that none of a model's modules can have."""
    full = largest_rank(factorised(tensors, selection))
    beyond = [str(rank) for rank in ranks if rank > full > 0]
    if beyond:
        raise InputError(
            "the ranks are above the smaller side of every module of the base", expected=f"at most {full}",
            received=", ".join(beyond), remedy="remove what is larger: every module has its full rank there",
        )  # fmt: skip


def adapter_bytes(shape: ModelShape, selection: TensorSelection, rank: int) -> int:
    """Bytes of the factors: every module has this rank, or that of its smaller side."""
    chosen = factorised(tensor_infos(shape), selection)
    return sum(min(rank, *info.shape) * sum(info.shape) * STORED for info in chosen)


def dense_bytes(shape: ModelShape, selection: TensorSelection) -> int:
    """Bytes of the deltas of norms and biases, which our own backend stores next to the factors."""
    chosen = (info for info in tensor_infos(shape) if selection.role(info, Path()) is TensorRole.DENSE)
    return sum(info.numel * DENSE for info in chosen)
