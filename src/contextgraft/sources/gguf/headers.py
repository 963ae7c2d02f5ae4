"""A GGUF file as the model folder that `fetch` would make of it, without its weights."""

import math
from pathlib import Path

from contextgraft.checkpoint.atomic import write_json
from contextgraft.checkpoint.model_folder import MODEL_CONFIG, MODEL_WEIGHTS, ModelFolder
from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.errors import CheckpointError, library_errors
from contextgraft.sources.gguf.config import check_architecture, model_config
from contextgraft.sources.gguf.model import open_gguf
from contextgraft.sources.gguf.tensors import hub_name, shape_of
from contextgraft.sources.gguf.tokenizer import build_tokenizer, save_tokenizer

DEQUANTISED = "BF16"  # the dtype that `fetch` writes by default


def open_gguf_headers(path: Path, folder: Path) -> ModelFolder:
    """Names, shapes and dtype of the dequantised tensors; config and tokenizer are written to `folder`.

    A file without tensors, or of another architecture, raises CheckpointError.
    """
    reader = open_gguf(path)
    with library_errors("is not a usable GGUF model", path):
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        check_architecture(metadata, path)
        shapes = {hub_name(tensor.name, path): shape_of(tensor) for tensor in reader.tensors}
        config = model_config(metadata, shapes, "bfloat16", path)
        tokenizer = build_tokenizer(metadata, path)
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, folder)
    write_json(folder / MODEL_CONFIG, config)
    tensors, end = {}, 0
    for name, shape in sorted(shapes.items()):
        begin, end = end, end + 2 * math.prod(shape)
        tensors[name] = TensorInfo(name, DEQUANTISED, shape, MODEL_WEIGHTS, begin, end)
    others = tuple(sorted(file.name for file in folder.iterdir() if file.name != MODEL_CONFIG))
    if not tensors:
        raise CheckpointError("the GGUF file contains no tensors", path=path)
    return ModelFolder(
        folder, config, tensors, (MODEL_WEIGHTS,), dict.fromkeys(tensors, MODEL_WEIGHTS), others
    )
