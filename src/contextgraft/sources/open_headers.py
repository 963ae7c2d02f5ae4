"""What the model of any source is, from its config, tokenizer and headers: no weight is read or fetched."""

from pathlib import Path

from contextgraft.checkpoint.model_folder import MODEL_CONFIG, ModelFolder, open_model, read_json
from contextgraft.errors import InputError
from contextgraft.formats.peft import ADAPTER_CONFIG
from contextgraft.formats.sidecar import SIDECAR, read_sidecar
from contextgraft.sources.fetch import fetch
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.hub.headers import open_headers
from contextgraft.sources.resolve import FORMS, locate, on_hub


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
        from contextgraft.sources.gguf.headers import open_gguf_headers

        return open_gguf_headers(path, place)
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
