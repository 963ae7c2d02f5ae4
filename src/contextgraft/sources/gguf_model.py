"""A GGUF file of a Llama, rewritten as a folder that transformers loads."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import torch

from contextgraft.checkpoint.layout import SINGLE
from contextgraft.checkpoint.publish import write_json
from contextgraft.checkpoint.reader import NAMES
from contextgraft.errors import CheckpointError
from contextgraft.sources.gguf_config import generation_config, model_config
from contextgraft.sources.gguf_tensors import dequantised, shapes
from contextgraft.sources.gguf_tokenizer import save_tokenizer

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def write_model(path: Path, folder: Path, dtype: str) -> None:
    """Write config, tokenizer and dequantised tensors of the GGUF file `path` into `folder`.

    Every value is dequantised to float32 as the gguf package does, then rounded once to `dtype` (a key of
    DTYPES). One tensor at a time is in memory. Anything else raises CheckpointError.
    """
    reader = open_gguf(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    names = frozenset(tensor.name for tensor in reader.tensors)
    rows = next((int(t.shape[1]) for t in reader.tensors if t.name == "token_embd.weight"), 0)
    config = model_config(metadata, names, rows, dtype, path)
    save_tokenizer(metadata, folder, path)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", generation_config(metadata))
    with (folder / SINGLE).open("wb") as file:
        write_header(file, shapes(reader, path), DTYPES[dtype])
        write_data(file, dequantised(reader, config, path), DTYPES[dtype])


def open_gguf(path: Path) -> gguf.GGUFReader:
    """Map a GGUF file; one that is not raises CheckpointError."""
    try:
        return gguf.GGUFReader(path)
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        raise CheckpointError("cannot be read as a GGUF file", path=path, received=str(error)[:120]) from None


def write_header(file: BinaryIO, tensors: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> None:
    """Write length and JSON header of a safetensors file: tensors in the order given, padded to 8 bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in tensors.items():
        end = offset + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    file.write(len(raw).to_bytes(8, "little") + raw)


def write_data(file: BinaryIO, tensors: Iterator[tuple[str, torch.Tensor]], dtype: torch.dtype) -> None:
    """Write the tensors' bytes one after another, each rounded to `dtype`."""
    for _, tensor in tensors:
        file.write(tensor.to(dtype).reshape(-1).view(torch.uint8).numpy().data)
