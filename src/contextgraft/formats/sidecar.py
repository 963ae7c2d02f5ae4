"""`contextgraft.json`, the sidecar of whatever contextgraft wrote: its common keys, and reading it."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from contextgraft._version import __version__
from contextgraft.checkpoint.atomic import PARTIAL, check_folder_output
from contextgraft.checkpoint.digest import model_digest
from contextgraft.checkpoint.model_folder import REFUSED, SIDECAR, ModelFolder, read_json
from contextgraft.config.text_file import list_below
from contextgraft.errors import CheckpointError, InputError, OutputError, Refused, raise_read_error
from contextgraft.formats.hub_source import cached_repository
from contextgraft.formats.model_card.licence import CARD, read_licence

__all__ = [
    "FORMAT",
    "SIDECAR",
    "check_record_output",
    "identity",
    "is_record",
    "origin",
    "read_records",
    "read_sidecar",
    "sidecar",
]

FORMAT = 2
TEMPORARY = f".{SIDECAR}{PARTIAL}"  # what a sidecar is written to before it is renamed
BASE_ROWS = (
    "base_rows"  # of a delta with more rows than the base's tensor: the base's; the rest is the donor's
)
Record = TypeVar("Record")


def sidecar(kind: str, **content: Any) -> dict[str, Any]:
    """The content of a `contextgraft.json`, with the keys that every kind has."""
    return {"kind": kind, "format": FORMAT, "contextgraft": __version__, **content}


def read_sidecar(path: Path, kind: str | None = None) -> dict[str, Any]:
    """The folder's `contextgraft.json`; one of another kind or format raises CheckpointError, or Refused."""
    sidecar = read_json(path / SIDECAR)
    if sidecar.get("format") != FORMAT:
        raise CheckpointError(
            "has a format this version does not know",
            path=path / SIDECAR,
            expected=FORMAT,
            received=sidecar.get("format"),
        )
    if kind is not None and sidecar.get("kind") == REFUSED != kind:
        raise Refused(path, str(sidecar.get("verb")), str(sidecar.get("reason")))
    if kind is not None and sidecar.get("kind") != kind:
        raise CheckpointError(
            "is of another kind", path=path / SIDECAR, expected=kind, received=sidecar.get("kind")
        )
    return sidecar


def is_record(folder: Path) -> bool:
    """Whether a folder holds the sidecar of a graft, or of a refusal, and no model.

    `evaluate --record` and `--refusal` write such folders; a killed process may leave a temporary file there.
    """
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - {TEMPORARY} != {SIDECAR}:
        return False
    try:
        return read_json(folder / SIDECAR).get("kind") in ("graft", REFUSED)
    except CheckpointError as error:
        raise_read_error(error, folder)
        return False


def check_record_output(folder: Path, option: str) -> None:
    """Raise OutputError for a folder that cannot be written, or that holds anything but such a record.

    `option` is the option that names the folder.
    """
    check_folder_output(folder)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names - {TEMPORARY} and not is_record(folder):
        raise OutputError(
            f"holds other files than the record of a graft, which {option} does not replace",
            path=folder,
            expected=f"a folder that is empty, or holds only {SIDECAR} of a graft or a refusal",
            remedy="name another folder",
        )


def read_records(
    folders: Iterable[Path], kind: str, remedy: str, parse: Callable[[Mapping[str, Any], Path], Record]
) -> list[Record]:
    """`parse` applied to every sidecar of a kind in or below the folders, once each.

    A folder without one, or a sidecar in which a key is missing or malformed, raises InputError.
    """
    records = []
    for path, content in _find_sidecars(folders, kind, remedy).items():
        try:
            records.append(parse(content, path))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"is not a complete sidecar of kind {kind}",
                path=path,
                received=f"{type(error).__name__} {error}",
                remedy=remedy,
            ) from None
    return records


def identity(folder: ModelFolder, known: Mapping[str, str] | None = None) -> dict[str, Any]:
    """{"name", "digest", "source", "revision"} of a model, as sidecars record it; the digest is computed.

    Source and revision come from the folder's own sidecar if there is one; `known` are tensor digests.
    """
    known_origin = origin(folder)
    return {"name": known_origin.pop("name"), "digest": model_digest(folder, known), **known_origin}


def origin(folder: ModelFolder) -> dict[str, Any]:
    """{"name", "source", "revision"} of a model, and {"license"} if its sidecar or its card states one.

    A folder in the cache of huggingface_hub is known without a sidecar.
    """
    record = read_sidecar(folder.path) if SIDECAR in folder.others else cached_repository(folder.path)
    licence = record.get("license") or (read_licence(folder.path / CARD) if CARD in folder.others else {})
    return {
        "name": record.get("name") or folder.path.resolve().name,
        "source": record.get("source"),
        "revision": record.get("revision"),
        **({"license": licence} if licence else {}),
    }


def _find_sidecars(folders: Iterable[Path], kind: str, remedy: str) -> dict[Path, dict[str, Any]]:
    """Every sidecar of a kind, of any format, in or below the folders, each once.

    A folder without one raises InputError, unless it holds a refusal: then nothing was written there.
    """
    matches: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        contents = {path: _read(path, remedy) for path in list_below(folder, SIDECAR)}
        below = {path: content for path, content in contents.items() if content.get("kind") == kind}
        if not below and not any(content.get("kind") == REFUSED for content in contents.values()):
            raise InputError(
                f"holds no {kind}", path=folder, expected=f"a {SIDECAR} of kind {kind}", remedy=remedy
            )
        matches |= {path.resolve(): content for path, content in below.items()}
    return matches


def _read(path: Path, remedy: str) -> dict[str, Any]:
    try:
        return read_json(path)
    except CheckpointError as error:
        raise_read_error(error, path)
        raise InputError(f"is not a readable sidecar: {error}", path=path, remedy=remedy) from None
