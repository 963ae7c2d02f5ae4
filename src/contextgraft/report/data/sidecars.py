"""The sidecars of adapters and grafts, `contextgraft.json`: found below folders and read."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.model_folder import REFUSED, SIDECAR
from contextgraft.errors import InputError


def find(folders: Iterable[Path], kind: str, remedy: str) -> dict[Path, dict[str, Any]]:
    """Every sidecar of a kind in or below the folders, each once; InputError where a folder has none.

    A folder that only records refusals is one in which nothing was made: it is passed over.
    """
    found: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        values = {path: _read(path, remedy) for path in sorted(folder.rglob(SIDECAR))}
        below = {path: value for path, value in values.items() if value.get("kind") == kind}
        if not below and not any(value.get("kind") == REFUSED for value in values.values()):
            raise InputError(
                f"holds no {kind}", path=folder, expected=f"a {SIDECAR} of kind {kind}", remedy=remedy
            )
        found |= {path.resolve(): value for path, value in below.items()}
    return found


def not_whole(kind: str, path: Path, error: Exception, remedy: str) -> InputError:
    """What is said of a sidecar that lacks something."""
    return InputError(
        f"is not a whole sidecar of {kind}",
        path=path,
        received=f"{type(error).__name__} {error}",
        remedy=remedy,
    )


def _read(path: Path, remedy: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("is not readable JSON", path=path, received=str(error), remedy=remedy) from None
    if not isinstance(value, dict):
        raise InputError("is not a sidecar", path=path, expected="a JSON object", remedy=remedy)
    return value
