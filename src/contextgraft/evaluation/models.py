"""The models of a run: how each is identified, where a graft comes from, and which are skipped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from contextgraft.checkpoint.input_files import InputFiles, unchanged
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import ContextgraftError, InputError, Refused, library_errors
from contextgraft.evaluation.backends.loading import load_config
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer, load_tokenizer
from contextgraft.formats.model.loadable import check_loadable
from contextgraft.formats.refusal import is_final
from contextgraft.formats.samples import GRAFT
from contextgraft.formats.sidecar import SIDECAR, identity, read_sidecar

ModelPaths = Sequence[tuple[str | None, Path]]  # label (None: the folder's own name) and folder


@dataclass(frozen=True)
class EvalModel:
    """A model to be evaluated. `graft` holds the graft columns, empty for other models.

    `inputs` are its files as they were before its digest was computed.
    """

    label: str
    path: Path
    digest: str
    graft: Mapping[str, Any]
    tokenizer: PromptTokenizer
    tokenizer_digest: str
    inputs: InputFiles = field(default_factory=InputFiles, compare=False, repr=False)


@dataclass(frozen=True)
class SkippedModel:
    """A model that cannot be evaluated: the command that refused it, and why."""

    label: str
    verb: str
    reason: str


def open_models(models: ModelPaths, *, allow_refused: bool) -> tuple[list[EvalModel], list[SkippedModel]]:
    """The models that can be evaluated and, with `allow_refused`, those that cannot; else their error."""
    opened: list[EvalModel] = []
    skipped: list[SkippedModel] = []
    for label, path in models:
        try:
            opened.append(open_eval_model(label, path))
        except ContextgraftError as error:
            if not allow_refused or not is_final(error):
                raise
            skipped.append(skipped_model(label or path.name, error))
    return opened, skipped


def skipped_model(label: str, error: ContextgraftError) -> SkippedModel:
    """The record of a model that cannot be evaluated; an earlier refusal keeps its verb and reason."""
    if isinstance(error, Refused):
        return SkippedModel(label, error.verb, error.reason)
    return SkippedModel(label, "evaluate", str(error))


def open_eval_model(label: str | None, path: Path) -> EvalModel:
    """Identify one folder; its weights are read for the digest and not kept."""
    folder = open_model(path)
    with unchanged(folder.inputs):
        check_loadable(folder)
        load_config(path)  # before the tokenizer, whose loader reads it, too
        model_identity = identity(folder)
        tokenizer = load_tokenizer(path)
        sidecar = read_sidecar(path) if SIDECAR in folder.others else {}
        graft = graft_columns(sidecar, path) if sidecar.get("kind") == "graft" else {}
        return EvalModel(
            label or str(model_identity["name"]),
            path,
            model_identity["digest"],
            graft,
            tokenizer,
            tokenizer.digest(),
            folder.inputs,
        )


def graft_columns(sidecar: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The columns that say where a graft comes from; of several adapters, those of the first.

    Values that are missing, or that the table of samples cannot hold, raise CheckpointError.
    """
    with library_errors("has an incomplete record of its graft", path / SIDECAR):
        adapter, target = sidecar["adapters"][0], sidecar["target"]
        columns = {
            "target_name": target["name"],
            "target_digest": target["digest"],
            "base_digest": adapter["base"]["digest"],
            "donor_digest": adapter["donor"]["digest"],
            "donor_name": adapter["donor"]["name"],
            "adapter_digest": adapter["digest"],
            "adapter_rank": adapter["rank"],
            "adapter_scale": float(adapter["scale"]),
        }
        pa.Table.from_pylist([columns], pa.schema(GRAFT))
    return columns


def check_labels(models: Sequence[EvalModel]) -> None:
    """Raise InputError if two models have the same label."""
    seen: dict[str, Path] = {}
    for model in models:
        if model.label in seen:
            raise InputError(
                f"two models are labelled {model.label!r}",
                path=model.path,
                received=f"{seen[model.label]} too",
                remedy="give them different labels: LABEL=DIR",
            )
        seen[model.label] = model.path
