"""Who a model is: a name for people, a digest for proof, and where it came from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contextgraft._version import __version__
from contextgraft.checkpoint.digest import model_digest
from contextgraft.checkpoint.model_folder import REFUSED, SIDECAR, ModelFolder, read_json
from contextgraft.errors import CheckpointError, Refused

__all__ = ["FORMAT", "SIDECAR", "identity", "read_sidecar", "sidecar"]

FORMAT = 2


def identity(folder: ModelFolder, known: Mapping[str, str] | None = None) -> dict[str, Any]:
    """{"name", "digest", "source", "revision"} of a model; the digest is computed, never taken on trust.

    Source and revision come from the folder's own sidecar if there is one; `known` are tensor digests.
    """
    sidecar = read_sidecar(folder.path) if SIDECAR in folder.others else {}
    return {
        "name": sidecar.get("name") or folder.path.resolve().name,
        "digest": model_digest(folder, known),
        "source": sidecar.get("source"),
        "revision": sidecar.get("revision"),
    }


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


def sidecar(kind: str, **content: Any) -> dict[str, Any]:
    """The content of a `contextgraft.json`, with the keys that every kind has."""
    return {"kind": kind, "format": FORMAT, "contextgraft": __version__, **content}
