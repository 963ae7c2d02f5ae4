"""The models of a run: how each is identified, where a graft comes from, and which are skipped."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from contextgraft.checkpoint.digest import model_digest, tensor_digests
from contextgraft.checkpoint.input_files import InputFiles, unchanged
from contextgraft.checkpoint.model_folder import MODEL_CONFIG, ModelFolder, open_model, read_json
from contextgraft.errors import ContextgraftError, InputError, Refused, library_errors
from contextgraft.evaluation.backends.loading import load_config
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer, load_tokenizer
from contextgraft.formats.hub_source import NAMES
from contextgraft.formats.model.loadable import check_loadable
from contextgraft.formats.refusal import is_final
from contextgraft.formats.samples import CONTROL, GRAFT
from contextgraft.formats.sidecar import SIDECAR, origin, read_sidecar

DESCRIPTIVE = (*NAMES, "transformers_version")  # keys of a config that decide no prediction
ModelPaths = Sequence[tuple[str | None, Path]]  # label (None: the folder's own name) and folder
# Opens tensors by name that are not in the model's folder; each is computed when transformers reads it.
OpenTensors = Callable[[], AbstractContextManager[Mapping[str, Any]]]


@dataclass(frozen=True)
class EvalModel:
    """A model to be evaluated. `graft` holds the graft columns, empty for other models.

    `inputs` are its files as they were before its digest was computed, `tensor_digests` those of its tensors.
    `tensors` is None for a model whose weights are in its folder.
    """

    label: str
    path: Path
    digest: str
    graft: Mapping[str, Any]
    tokenizer: PromptTokenizer
    tokenizer_digest: str
    inputs: InputFiles = field(default_factory=InputFiles, compare=False, repr=False)
    tensor_digests: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    tensors: OpenTensors | None = field(default=None, compare=False, repr=False)


class ModelVariant(Protocol):
    """A model that is made of another one, the target, in memory: a graft that is not written."""

    @property
    def label(self) -> str:
        """Its label in the table."""

    def open(self, target: EvalModel, *, identify: bool = True) -> EvalModel:
        """The variant of an opened target; raises what `merge` would raise.

        Without `identify` its digest is empty, and no weight is read.
        """


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


def open_models_and_variants(
    models: ModelPaths, variants: Sequence[ModelVariant], *, allow_refused: bool
) -> tuple[list[EvalModel], list[SkippedModel]]:
    """As `open_models`; the variants follow the first model, of which they are."""
    opened, skipped = open_models(models[:1], allow_refused=allow_refused)
    target = opened[0] if opened else skipped[0]
    made, unfit = open_variants(variants, target)
    others, refused = open_models(models[1:], allow_refused=allow_refused)
    return [*opened, *made, *others], [*skipped, *unfit, *refused]


def open_variants(
    variants: Sequence[ModelVariant], target: EvalModel | SkippedModel
) -> tuple[list[EvalModel], list[SkippedModel]]:
    """The variants of a target that can be evaluated, and those that cannot; none of them stops the others.

    What was refused is recorded as by `merge`, and all variants of a target that was refused itself.
    """
    opened: list[EvalModel] = []
    skipped: list[SkippedModel] = []
    for variant in variants:
        if isinstance(target, SkippedModel):
            skipped.append(replace(target, label=variant.label))
            continue
        try:
            opened.append(variant.open(target))
        except ContextgraftError as error:
            if not is_final(error):
                raise
            skipped.append(skipped_model(variant.label, error, "merge"))
    return opened, skipped


def skipped_model(label: str, error: ContextgraftError, verb: str = "evaluate") -> SkippedModel:
    """The record of a model that `verb` refused; an earlier refusal keeps its verb and reason."""
    if isinstance(error, Refused):
        return SkippedModel(label, error.verb, error.reason)
    return SkippedModel(label, verb, str(error))


def open_eval_model(label: str | None, path: Path, advance: Callable[[int], object] = int) -> EvalModel:
    """Identify one folder; its weights are read for the digest and not kept.

    `advance` is called with the bytes of each tensor that was read.
    """
    folder = open_model(path)
    with unchanged(folder.inputs):
        check_loadable(folder)
        load_config(path)  # before the tokenizer, whose loader reads it, too
        name = label or str(origin(folder)["name"])
        digests = tensor_digests(folder, advance=advance)
        tokenizer = load_tokenizer(path)
        sidecar = read_sidecar(path) if SIDECAR in folder.others else {}
        return EvalModel(
            name,
            path,
            model_digest(folder, digests),
            graft_columns(sidecar, path) if sidecar.get("kind") == "graft" else {},
            tokenizer,
            tokenizer.digest(),
            folder.inputs,
            digests,
        )


def deciding_content(model: EvalModel) -> dict[str, Any]:
    """JSON of what decides a model's predictions: of its config, all but names and versions."""
    config = read_json(model.path / MODEL_CONFIG)
    return {
        "model": model.digest,
        "config": {key: value for key, value in config.items() if key not in DESCRIPTIVE},
        "tokenizer": model.tokenizer_digest,
    }


def variant_model(
    label: str,
    folder: ModelFolder,
    origin: Mapping[str, Any],
    digests: Mapping[str, str],
    tensors: OpenTensors,
) -> EvalModel:
    """A graft whose weights are not in its folder.

    `origin` has the keys `adapters` and `target` of the record that `merge` would write, and the name of a
    control under `control`. Without `digests` of the tensors, its digest is empty.
    """
    check_loadable(folder)
    load_config(folder.path)
    tokenizer = load_tokenizer(folder.path)
    return EvalModel(
        label,
        folder.path,
        model_digest(folder, digests) if digests else "",
        graft_columns(origin, folder.path),
        tokenizer,
        tokenizer.digest(),
        folder.inputs,
        digests,
        tensors,
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
            "rank": adapter["rank"],
            "scale": float(adapter["scale"]),
            CONTROL: sidecar.get(CONTROL),
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
