"""The models of a run: who each one is, and where a graft comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import ContextgraftError, InputError, Refused
from contextgraft.evaluation.backends.tokenizer import Tokens, load_tokens
from contextgraft.formats.refusal import is_final
from contextgraft.formats.sidecar import SIDECAR, identity, read_sidecar


@dataclass(frozen=True)
class Candidate:
    """A model to be asked. `graft` holds the graft columns, empty for other models."""

    label: str
    path: Path
    digest: str
    graft: Mapping[str, Any]
    tokens: Tokens
    tokens_digest: str


@dataclass(frozen=True)
class Absent:
    """A model that cannot be asked: the step that refused it, and why."""

    label: str
    verb: str
    reason: str


def admit(
    models: Sequence[tuple[str | None, Path]], *, allow_refused: bool
) -> tuple[list[Candidate], list[Absent]]:
    """The models that can be asked and, if that is allowed, those that cannot; else their error is raised."""
    found: list[Candidate] = []
    absent: list[Absent] = []
    for label, path in models:
        try:
            found.append(candidate(label, path))
        except ContextgraftError as error:
            if not allow_refused or not is_final(error):
                raise
            absent.append(absence(label or path.name, error))
    return found, absent


def absence(label: str, error: ContextgraftError) -> Absent:
    """What stands in place of a model's answers; an earlier refusal keeps its verb and reason."""
    if isinstance(error, Refused):
        return Absent(label, error.verb, error.reason)
    return Absent(label, "evaluate", str(error))


def candidate(label: str | None, path: Path) -> Candidate:
    """Who a folder is; its weights are read for the digest and not kept."""
    folder = open_model(path)
    who = identity(folder)
    tokens = load_tokens(path)
    sidecar = read_sidecar(path) if SIDECAR in folder.others else {}
    graft = graft_columns(sidecar) if sidecar.get("kind") == "graft" else {}
    return Candidate(label or who["name"], path, who["digest"], graft, tokens, tokens.digest())


def graft_columns(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that tell a graft's row where it comes from; of several adapters the first one counts."""
    adapter, target = sidecar["adapters"][0], sidecar["target"]
    return {
        "target_name": target["name"],
        "target_digest": target["digest"],
        "base_digest": adapter["base"]["digest"],
        "donor_digest": adapter["donor"]["digest"],
        "donor_name": adapter["donor"]["name"],
        "adapter_digest": adapter["digest"],
        "adapter_rank": adapter["rank"],
        "adapter_scale": float(adapter["scale"]),
    }


def check_labels(candidates: Sequence[Candidate]) -> None:
    """Raise InputError if two models would have the same label."""
    seen: dict[str, Path] = {}
    for each in candidates:
        if each.label in seen:
            raise InputError(
                f"two models are labelled {each.label!r}",
                path=each.path,
                received=f"{seen[each.label]} too",
                remedy="name them apart: LABEL=DIR",
            )
        seen[each.label] = each.path
