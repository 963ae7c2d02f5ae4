"""Convert a GGUF file of a Llama to a folder that transformers loads."""

from pathlib import Path
from typing import BinaryIO

import torch

from contextgraft.checkpoint.atomic import write_json
from contextgraft.checkpoint.model_folder import MODEL_WEIGHTS
from contextgraft.checkpoint.writer import order, write_tensors
from contextgraft.errors import library_errors
from contextgraft.formats.gguf.header import GGUFHeader
from contextgraft.sources.gguf.config import check_architecture, generation_config, model_config
from contextgraft.sources.gguf.tensors import dequantise, hub_name, shape_of, stored
from contextgraft.sources.gguf.tokenizer import build_tokenizer, save_tokenizer

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def write_model(path: Path, folder: Path, dtype: str) -> None:
    """Write config, tokenizer and dequantised tensors of the GGUF file `path` into `folder`.

    Every value is dequantised to float32 by the gguf package, then rounded once to `dtype` (a key of DTYPES).
    One tensor at a time is in memory. Raises CheckpointError for unsupported files.
    """
    reader = open_gguf(path)
    with library_errors("is not a usable GGUF model", path):
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        check_architecture(metadata, path)
        tensors = {hub_name(tensor.name, path): tensor for tensor in reader.tensors}
        shapes = {name: shape_of(tensor) for name, tensor in tensors.items()}
        config = model_config(metadata, shapes, dtype, path)
        tokenizer = build_tokenizer(metadata, path)
    save_tokenizer(tokenizer, folder)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", generation_config(metadata, config["vocab_size"], path))
    specs = {name: (DTYPES[dtype], shapes[name]) for name in tensors}

    def rounded(name: str, file: BinaryIO) -> torch.Tensor:
        with library_errors(f"tensor {name!r} cannot be dequantised", path):
            return dequantise(stored(tensors[name], file), name, config).to(DTYPES[dtype])

    with path.open("rb") as file:
        write_tensors(folder / MODEL_WEIGHTS, specs, (rounded(name, file) for name in order(specs)))


def open_gguf(path: Path) -> GGUFHeader:
    """Read the header of a GGUF file; CheckpointError if it is not one."""
    with library_errors("not a readable GGUF file", path):
        return GGUFHeader(path)
