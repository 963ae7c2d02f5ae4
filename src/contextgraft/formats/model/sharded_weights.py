"""A model's weights in one safetensors file, or above a size in several with the index that names them."""

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

import torch

from contextgraft.checkpoint.atomic import write_json
from contextgraft.checkpoint.model_folder import MODEL_INDEX, MODEL_WEIGHTS
from contextgraft.checkpoint.writer import Spec, order, write_tensors

MAX_SHARD_SIZE = 5e9  # bytes of a file; the default of huggingface_hub
WRITTEN = re.compile(r"\.?model(-\d{5,}-of-\d{5,})?\.safetensors(\.partial)?|model\.safetensors\.index\.json")


def write_weights(
    folder: Path, specs: Mapping[str, Spec], tensors: Iterable[torch.Tensor], max_shard_size: float
) -> None:
    """Write the weights of a model; `tensors` come in the order of `order(specs)`, one at a time.

    No tensor is kept while the next one is computed. What an interrupted call left in the folder is removed
    first: it may have had another `max_shard_size`, in bytes.
    """
    for path in folder.iterdir():
        if WRITTEN.fullmatch(path.name):
            path.unlink()
    shards, rest = divide(specs, max_shard_size), iter(tensors)
    for shard, names in shards.items():
        write_tensors(folder / shard, {name: specs[name] for name in names}, islice(rest, len(names)))
    if len(shards) > 1:
        files = {name: shard for shard, names in shards.items() for name in names}
        write_index(folder, files, sum(map(_size, specs.values())))


def divide(specs: Mapping[str, Spec], max_shard_size: float) -> dict[str, list[str]]:
    """The tensors of each file: one after another in the order of one file, as many as fit into the size.

    The data of a file have at most `max_shard_size` bytes, or are one larger tensor.
    """
    shards: list[list[str]] = [[]]
    size = 0
    for name in order(specs):
        more = _size(specs[name])
        if shards[-1] and size + more > max_shard_size:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += more
    if len(shards) == 1:
        return {MODEL_WEIGHTS: shards[0]}
    return dict(zip(shard_names(len(shards)), shards, strict=True))


def shard_names(count: int) -> list[str]:
    """Names of the files, as transformers writes them."""
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def write_index(folder: Path, files: Mapping[str, str], total_size: int) -> None:
    """Write the index: the file of each tensor, and the bytes of all tensors."""
    write_json(folder / MODEL_INDEX, {"metadata": {"total_size": total_size}, "weight_map": dict(files)})


def _size(spec: Spec) -> int:
    dtype, shape = spec
    return torch.Size(shape).numel() * dtype.itemsize
