"""What goes to the hub from a folder that contextgraft made: its files by name, checked, and its card."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.model_folder import MODEL_CONFIG, MODEL_INDEX, PICKLES, open_model, read_json
from contextgraft.checkpoint.safetensors_header import open_tensors
from contextgraft.errors import CheckpointError, InputError, VerificationError
from contextgraft.formats.hub_source import REPOSITORY_NAME
from contextgraft.formats.peft import ADAPTER_CONFIG, ADAPTER_WEIGHTS, DENSE_DELTAS
from contextgraft.formats.sidecar import SIDECAR, read_sidecar
from contextgraft.sources.hub.card import minimal_card
from contextgraft.sources.hub.files import plain, small

README = "README.md"
GGUF = "adapter.gguf"


@dataclass(frozen=True)
class Parcel:
    """Files of a folder and the card beside them, which is text that need not be a file."""

    folder: Path
    to: str
    kind: str
    files: dict[str, int]  # bytes by name
    card: str

    @property
    def bytes(self) -> int:
        """All that is sent, at most."""
        return sum(self.files.values()) + len(self.card.encode())


def pack(folder: Path, to: str, own_card: Path | None = None) -> Parcel:
    """Check a folder as far as that is cheap, without reading tensors, and list what is sent of it.

    The card is `own_card`, else the folder's README.md, else a minimal one. A folder that contextgraft did
    not make raises InputError, one that is not whole CheckpointError or VerificationError.
    """
    if not REPOSITORY_NAME.fullmatch(to):
        raise InputError("is no name of a repository", path=to, expected="OWNER/NAME")
    if not folder.is_dir():
        raise InputError("no such folder", path=folder)
    if not (folder / SIDECAR).is_file():
        raise InputError(
            "was not made by contextgraft", path=folder, expected=f"{SIDECAR} in it",
            remedy="publish other folders with `hf upload`",
        )  # fmt: skip
    sidecar = read_sidecar(folder)
    kind = sidecar.get("kind")
    if not isinstance(kind, str) or kind not in CONTENTS:
        raise InputError("is nothing to publish", path=folder, expected=" or ".join(CONTENTS), received=kind)
    names = sorted({SIDECAR, *CONTENTS[kind](folder, sidecar)} - {README})
    text = (
        _text(own_card or folder / README)
        if own_card or (folder / README).exists()
        else minimal_card(sidecar, to)
    )
    return Parcel(folder, to, kind, {name: (folder / name).stat().st_size for name in names}, text)


def _adapter(folder: Path, sidecar: Mapping[str, Any]) -> list[str]:
    """What PEFT loads, the dense deltas that the sidecar lists, and small files beside."""
    read_json(folder / ADAPTER_CONFIG)
    weights = [ADAPTER_WEIGHTS, *([DENSE_DELTAS] if sidecar.get("dense") else [])]
    for name in weights:
        open_tensors(folder / name)
    beside = [path.name for path in folder.iterdir() if path.is_file() and small(path.name)]
    return [ADAPTER_CONFIG, *weights, *beside, *([GGUF] if (folder / GGUF).exists() else [])]


def _graft(folder: Path, sidecar: Mapping[str, Any]) -> list[str]:
    """The files of the manifest, each there with the size on record."""
    files = sidecar.get("files")
    if not isinstance(files, dict) or not all(isinstance(facts, dict) for facts in files.values()):
        raise CheckpointError("does not say which files it has", path=folder / SIDECAR)
    for name, facts in files.items():
        path = folder / name
        received = path.stat().st_size if plain(name) and path.is_file() else "no such file"
        if received != facts.get("bytes"):
            raise VerificationError(
                "is not what the graft's manifest says", path=path, expected=f"{facts.get('bytes')} bytes",
                received=received, remedy="merge again, and `contextgraft verify` the result",
            )  # fmt: skip
    open_model(folder)
    return list(files)


def _trained(folder: Path, sidecar: Mapping[str, Any]) -> list[str]:  # noqa: ARG001
    """All of a model but pickles."""
    model = open_model(folder)
    index = [MODEL_INDEX] if (folder / MODEL_INDEX).exists() else []
    return [
        MODEL_CONFIG,
        *index,
        *model.shards,
        *(name for name in model.others if not name.endswith(PICKLES)),
    ]


CONTENTS: Mapping[str, Callable[[Path, Mapping[str, Any]], list[str]]] = {
    "adapter": _adapter,
    "graft": _graft,
    "trained": _trained,
}


def _text(path: Path) -> str:
    """A card from a file, which must have the hub's front matter."""
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot be read as a card", path=path, received=str(error)[:120]) from None
    if not text.startswith("---\n"):
        raise InputError("is no card of the hub", path=path, expected="metadata between two lines of ---")
    return text
