"""Open the model of any source by its config, tokenizer and headers, without its weights."""

from pathlib import Path

from contextgraft.checkpoint.model_folder import MODEL_CONFIG, ModelFolder, open_model, read_json
from contextgraft.errors import InputError
from contextgraft.formats.peft import ADAPTER_CONFIG
from contextgraft.formats.sidecar import SIDECAR, read_sidecar
from contextgraft.sources.fetch import fetch
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.hub.headers import open_headers
from contextgraft.sources.resolve import FORMS, locate, on_hub


def open_model_headers(source: str, cache: Path, hub: Hub) -> ModelFolder:
    """The model that `source` names: config, tensor names, dtypes and shapes, but no tensors.

    Files that have to be fetched or converted are written to `cache`, and reused if they exist. Raises as
    `fetch`, and InputError for an adapter.
    """
    if on_hub(source):
        if not cache.exists():
            fetch(source, cache, hub=hub, headers=True)
        return _folder(cache, source)
    path = locate(source)
    if path.is_dir():
        return _folder(path, source)
    if path.suffix == ".gguf":
        from contextgraft.sources.gguf.headers import open_gguf_headers

        return open_gguf_headers(path, cache)
    raise InputError("neither a model folder nor a GGUF file", path=path, expected=FORMS)


def _folder(path: Path, source: str) -> ModelFolder:
    if (path / ADAPTER_CONFIG).exists() and not (path / MODEL_CONFIG).exists():
        raise InputError(
            "an adapter, not a model", path=source, remedy="merge it into its base, and use the result"
        )
    record = read_json(path / SIDECAR) if (path / SIDECAR).exists() else {}
    if record.get("kind") != "headers":
        return open_model(path)
    recorded = read_sidecar(path).get("source")
    if on_hub(source) and recorded != source:
        raise InputError(
            "contains the headers of another model", path=path, expected=source, received=recorded,
            remedy="remove it or choose another folder",
        )  # fmt: skip
    return open_headers(path)
