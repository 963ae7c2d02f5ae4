"""What the model of any source is, from its config, tokenizer and headers: no weight is read or fetched."""

from pathlib import Path

from contextgraft.checkpoint.atomic import write_json
from contextgraft.checkpoint.model_folder import (
    MODEL_CONFIG,
    MODEL_WEIGHTS,
    ModelFolder,
    open_model,
    read_json,
)
from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.errors import CheckpointError, InputError
from contextgraft.formats.peft import ADAPTER_CONFIG
from contextgraft.formats.sidecar import SIDECAR, read_sidecar
from contextgraft.sources.fetch import fetch
from contextgraft.sources.gguf.config import check_architecture, model_config
from contextgraft.sources.gguf.model import open_gguf
from contextgraft.sources.gguf.tensors import hub_name, shape_of
from contextgraft.sources.gguf.tokenizer import save_tokenizer
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.hub.headers import open_headers
from contextgraft.sources.resolve import FORMS, locate, on_hub

DEQUANTISED = "BF16"  # what `fetch` makes of a GGUF file unless told otherwise


def peek(source: str, place: Path, hub: Hub) -> ModelFolder:
    """The model that `source` names: config, names, dtypes and shapes; no tensor of it can be read.

    What has to be fetched or written for that goes to `place`, and is taken up if it is there already.
    Raises as `fetch`; an adapter, which is no model, raises InputError.
    """
    if on_hub(source):
        if not place.exists():
            fetch(source, place, hub=hub, headers=True)
        return _folder(place, source)
    path = locate(source)
    if path.is_dir():
        return _folder(path, source)
    if path.suffix == ".gguf":
        return _gguf(path, place)
    raise InputError("is neither a model folder nor a GGUF file", path=path, expected=FORMS)


def _folder(path: Path, source: str) -> ModelFolder:
    if (path / ADAPTER_CONFIG).exists() and not (path / MODEL_CONFIG).exists():
        raise InputError(
            "is an adapter, not a model", path=source, remedy="merge it into its base, and give the result"
        )
    known = read_json(path / SIDECAR) if (path / SIDECAR).exists() else {}
    if known.get("kind") != "headers":
        return open_model(path)
    held = read_sidecar(path).get("source")
    if on_hub(source) and held != source:
        raise InputError(
            "holds the headers of another model", path=path, expected=source, received=held,
            remedy="remove it or name another folder",
        )  # fmt: skip
    return open_headers(path)


def _gguf(path: Path, place: Path) -> ModelFolder:
    """As `fetch` would write it: the names, shapes and dtype of the dequantised tensors."""
    reader = open_gguf(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    check_architecture(metadata, path)
    shapes = {hub_name(tensor.name, path): shape_of(tensor) for tensor in reader.tensors}
    config = model_config(metadata, shapes, "bfloat16", path)
    place.mkdir(parents=True, exist_ok=True)
    save_tokenizer(metadata, place, path)
    write_json(place / MODEL_CONFIG, config)
    tensors = {
        name: TensorInfo(name, DEQUANTISED, shape, MODEL_WEIGHTS, 0, 0)
        for name, shape in sorted(shapes.items())
    }
    others = tuple(sorted(file.name for file in place.iterdir() if file.name != MODEL_CONFIG))
    if not tensors:
        raise CheckpointError("holds no tensors", path=path)
    return ModelFolder(
        place, config, tensors, (MODEL_WEIGHTS,), dict.fromkeys(tensors, MODEL_WEIGHTS), others
    )
