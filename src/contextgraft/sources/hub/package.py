"""What is uploaded of a folder that contextgraft made: its files, checked, and its model card."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.input_files import InputFiles, files_of, unchanged
from contextgraft.checkpoint.model_folder import (
    MODEL_CONFIG,
    MODEL_INDEX,
    PICKLES,
    check_is_folder,
    folders_with,
    open_model,
    read_json,
)
from contextgraft.checkpoint.safetensors_header import open_tensors
from contextgraft.errors import (
    CheckpointError,
    InputError,
    VerificationError,
    first_names,
    raise_read_error,
)
from contextgraft.formats.hub_source import REPOSITORY_NAME, hub_repository, is_path
from contextgraft.formats.model.own_files import check_own_files
from contextgraft.formats.model_card.cards import card_of
from contextgraft.formats.model_card.licence import CARD, card_metadata, name_fits, terms_of
from contextgraft.formats.model_card.usage import REPOSITORY
from contextgraft.formats.peft import ADAPTER_CONFIG, ADAPTER_WEIGHTS, DENSE_DELTAS
from contextgraft.formats.sidecar import SIDECAR, read_sidecar
from contextgraft.sources.hub.files import is_safe_name, is_small_file
from contextgraft.sources.hub.published import published_files

GGUF = "adapter.gguf"


@dataclass(frozen=True)
class UploadPackage:
    """Files of a folder, and the text of its card, which need not be a file of the folder.

    `inputs` are all files of the folder as they were before they were checked.
    """

    folder: Path
    to: str
    kind: str
    files: dict[str, int]  # size in bytes by name
    card: str
    rewritten: dict[str, bytes]  # content of files that are not published as they are in the folder
    inputs: InputFiles
    warnings: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Upper bound of the bytes to upload."""
        return sum(self.files.values()) + len(self.card.encode())


def build_package(folder: Path, to: str, own_card: Path | None = None) -> UploadPackage:
    """Check a folder without reading tensors, and list the files to upload.

    The card is `own_card`, else the folder's README.md, else one from the sidecar; OWNER/NAME in it becomes
    `to`. In a graft of an earlier version README.md, listed among its files, is the fine-tune's: it is not
    published. Raises InputError for a folder that contextgraft did not make, CheckpointError or
    VerificationError for an incomplete one.
    """
    if not REPOSITORY_NAME.fullmatch(to):
        named = hub_repository(to)
        raise InputError(
            "not a valid repository name", path=to, expected="OWNER/NAME",
            remedy=f"did you mean {named}?" if named else None,
        )  # fmt: skip
    check_is_folder(folder, "no such folder", "an adapter, a graft or a trained model")
    if not (folder / SIDECAR).is_file():
        inside = folders_with(folder, SIDECAR)
        raise InputError(
            "this folder was not made by contextgraft", path=folder, expected=SIDECAR,
            remedy=f"choose one of its folders: {first_names(inside, 5)}" if inside else
            "publish other folders with `hf upload`",
        )  # fmt: skip
    inputs = files_of(folder)
    with unchanged(inputs):
        return _checked_package(folder, to, own_card, inputs)


def _checked_package(folder: Path, to: str, own_card: Path | None, inputs: InputFiles) -> UploadPackage:
    check_own_files(folder)
    sidecar = read_sidecar(folder)
    kind = sidecar.get("kind")
    if not isinstance(kind, str) or kind not in CONTENTS:
        raise InputError(
            "this kind of folder cannot be published",
            path=folder,
            expected=" or ".join(CONTENTS),
            received=kind,
        )
    names = sorted({SIDECAR, *CONTENTS[kind](folder, sidecar)} - {CARD})
    own = (folder / CARD).exists() and CARD not in (sidecar.get("files") or {})
    card = own_card or (folder / CARD if own else None)
    text = (card_of(sidecar) if card is None else _text(card, sidecar)).replace(REPOSITORY, to)
    rewritten = published_files(folder, names, sidecar)
    sizes = {
        name: len(rewritten[name]) if name in rewritten else (folder / name).stat().st_size for name in names
    }
    return UploadPackage(folder, to, kind, sizes, text, rewritten, inputs, _name_warnings(text, to))


def _name_warnings(card: str, to: str) -> tuple[str, ...]:
    """A warning where the licence demands another beginning of the repository's name."""
    metadata = card_metadata(card)
    terms = terms_of(metadata)
    if terms is None or name_fits(to.partition("/")[2], terms):
        return ()
    return (
        f"{to}: the licence {metadata.get('license')} demands that the name of a derived model begins with "
        f"{terms.name_begins!r}",
    )


def _adapter(folder: Path, sidecar: Mapping[str, Any]) -> list[str]:
    """The files that PEFT loads, the dense deltas that the sidecar lists, tokenizer and licence."""
    read_json(folder / ADAPTER_CONFIG)
    weights = [ADAPTER_WEIGHTS, *([DENSE_DELTAS] if sidecar.get("dense") else [])]
    for name in weights:
        open_tensors(folder / name)
    small = [path.name for path in folder.iterdir() if path.is_file() and is_small_file(path.name)]
    return [ADAPTER_CONFIG, *weights, *small, *([GGUF] if (folder / GGUF).exists() else [])]


def _graft(folder: Path, sidecar: Mapping[str, Any]) -> list[str]:
    """The files of the manifest, which must have the recorded sizes."""
    files = sidecar.get("files")
    if not isinstance(files, dict) or not all(isinstance(facts, dict) for facts in files.values()):
        raise CheckpointError("the list of files is missing or malformed", path=folder / SIDECAR)
    for name, facts in files.items():
        path = folder / name
        received = path.stat().st_size if is_safe_name(name) and path.is_file() else "no such file"
        if received != facts.get("bytes"):
            raise VerificationError(
                "differs from the manifest of the graft", path=path, expected=f"{facts.get('bytes')} bytes",
                received=received, remedy="merge again, and `contextgraft verify` the result",
            )  # fmt: skip
    open_model(folder)
    return list(files)


def _trained(folder: Path, sidecar: Mapping[str, Any]) -> list[str]:  # noqa: ARG001
    """All files of a model except pickles."""
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


def _text(path: Path, sidecar: Mapping[str, Any]) -> str:
    """The text of a model card, which must have the hub's front matter and name the base of an adapter."""
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise_read_error(error, path)
        raise InputError("cannot read the model card", path=path, received=str(error)[:120]) from None
    if not text.startswith("---\n"):
        raise InputError(
            "not a model card of the hub", path=path, expected="metadata between two lines of ---"
        )
    named = card_metadata(text).get("base_model")
    models = named if isinstance(named, list) else [named]
    base = sidecar.get("base")
    repository = hub_repository(base.get("source")) if isinstance(base, Mapping) else None
    if any(is_path(model) for model in models) or (named and repository and repository not in models):
        raise InputError(
            "the model card names another base_model than the record of the folder", path=path,
            expected=repository or "a repository on the hub, OWNER/NAME", received=named,
            remedy="correct base_model, or pass another card with --card",
        )  # fmt: skip
    return text
