"""Writing a safetensors file tensor by tensor, as `safetensors.torch.save_file` would write it."""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from contextgraft.checkpoint.atomic import publish_file
from contextgraft.checkpoint.reader import NAMES
from contextgraft.checkpoint.safetensors_header import ITEM_BYTES

Spec = tuple[torch.dtype, tuple[int, ...]]
PYTORCH = {"format": "pt"}


def write_tensors(
    path: Path,
    specs: Mapping[str, Spec],
    tensors: Iterable[torch.Tensor],
    *,
    durable: bool = True,
    metadata: Mapping[str, str] = PYTORCH,
) -> None:
    """Write one file, atomically; `tensors` come in the order of `order(specs)`, one at a time."""
    checked = map(_of_spec, (specs[name] for name in order(specs)), tensors)
    write_blocks(path, specs, checked, durable=durable, metadata=metadata)


def write_blocks(
    path: Path,
    specs: Mapping[str, Spec],
    tensors: Iterable[Iterable[torch.Tensor]],
    *,
    durable: bool = True,
    metadata: Mapping[str, str] = PYTORCH,
) -> None:
    """As `write_tensors`, with each tensor as the blocks of its rows, which are written one at a time.

    Nothing refers to a tensor while the next one is computed.
    """
    names, rest = order(specs), iter(tensors)
    with publish_file(path, durable=durable) as temporary, temporary.open("wb") as file:
        file.write(_header(names, specs, metadata))
        for name in names:
            begin, (dtype, shape) = file.tell(), specs[name]
            file.writelines(map(_data, next(rest, ())))
            assert file.tell() - begin == torch.Size(shape).numel() * dtype.itemsize, name
        assert not any(True for _ in rest)


def save_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    durable: bool = True,
    metadata: Mapping[str, str] = PYTORCH,
) -> None:
    """Write tensors that are in memory as one file, atomically: a kill leaves no partial file."""
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_tensors(path, specs, (tensors[name] for name in order(specs)), durable=durable, metadata=metadata)


def order(specs: Mapping[str, Spec]) -> list[str]:
    """Names in the order of the file: wider dtypes first, so that everything is aligned, then by name."""
    return sorted(specs, key=lambda name: (-ITEM_BYTES[NAMES[specs[name][0]]], name))


def _of_spec(spec: Spec, tensor: torch.Tensor) -> tuple[torch.Tensor]:
    """A tensor as one block."""
    assert (tensor.dtype, tuple(tensor.shape)) == spec, spec
    return (tensor,)


def _data(block: torch.Tensor) -> memoryview:
    return block.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _header(names: list[str], specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    begin = 0
    for name in names:
        dtype, shape = specs[name]
        end = begin + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
