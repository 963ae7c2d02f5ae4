"""A config without weights, as a model whose tensors have the shapes that the config describes."""

from pathlib import Path

from contextgraft.checkpoint.model_folder import MODEL_CONFIG, SIDECAR, ModelFolder, read_json
from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.planning.shapes.model_shape import read_model_shape

NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".header", ".index.json")


def is_config_only(path: Path) -> bool:
    """Whether this is a config's own file, or a folder with one and no weights, nor what describes some."""
    if path.is_file():
        return path.suffix == ".json"
    if not (path / MODEL_CONFIG).is_file() or (path / SIDECAR).exists():
        return False
    return not any(
        file.name.endswith(WEIGHTS) or file.name == "adapter_config.json" for file in path.iterdir()
    )


def open_config_only(path: Path) -> ModelFolder:
    """The model of a config: names and shapes by the formulas of `plan`, or as transformers builds it.

    It has no weight files (`shards`), so nothing can be read. A config that describes no model raises
    CheckpointError.
    """
    shape = read_model_shape(path)
    dtype = NAMES[shape.dtype]
    tensors = {name: TensorInfo(name, dtype, size, "", 0, 0) for name, size in sorted(shape.tensors.items())}
    if path.is_file():
        return ModelFolder(path, read_json(path), tensors, (), {}, ())
    others = tuple(sorted(file.name for file in path.iterdir() if file.name != MODEL_CONFIG))
    return ModelFolder(path, read_json(path / MODEL_CONFIG), tensors, (), {}, others)
