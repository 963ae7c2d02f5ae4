"""Whether a model can be a fine-tune of a base, from config and headers alone: no weight is read.

Equal architecture and shapes are necessary, not sufficient: only the weights prove it (`inspect MODEL --base
BASE`). Other evidence, such as shared files, is collected, too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from contextgraft.adapter.merge.target import check_names_and_head, check_takes_delta, check_vocabulary
from contextgraft.checkpoint.full_precision import check_unquantised, quantisation
from contextgraft.checkpoint.model_folder import ModelFolder, TensorInfo
from contextgraft.errors import CheckpointError, first_names, raise_read_error
from contextgraft.formats.architecture import architecture, architecture_differences
from contextgraft.formats.model.aligned_names import aligned
from contextgraft.formats.model.unloaded_heads import unloaded_heads
from contextgraft.formats.model.vocabulary import VocabularyDifference, compare, read_vocabulary
from contextgraft.formats.sidecar import SIDECAR, read_sidecar
from contextgraft.formats.tensor_names import (
    TensorRole,
    is_buffer,
    layer_of,
    output_embedding,
    rows_are_tokens,
    tensor_role,
)
from contextgraft.rope import settings
from contextgraft.rope.settings import RopeSettings

SHOWN = 3  # tensors named in a reason; JSON has all
Shapes = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class VocabularyMatch:
    """Two vocabularies compared; `tokens` is None where a model has no readable tokenizer.json."""

    rows: tuple[int | None, int | None]
    tied: tuple[bool, bool]
    tokens: VocabularyDifference | None

    @property
    def same(self) -> bool:
        """Whether nothing is known to differ."""
        kept = self.tokens is None or not (
            self.tokens.moved or self.tokens.only_base or self.tokens.only_model
        )
        return kept and self.rows[0] == self.rows[1] and self.tied[0] == self.tied[1]


@dataclass(frozen=True)
class Compatibility:
    """A base and a model, in that order in every pair.

    `architecture`: values of the config that differ; `shapes`: tensors of other shape, `missing` and `added`:
    of one side only, among those that a delta would change; `fitting` of `tensors` fit. `quantised` is the
    method, if any. `named` is the origin that the model's config names; `shared` are weight files with the
    digest of one of the base's, of `files` (0 where no digests are recorded); `unread` are folders without
    weights, whose shapes are only those of the config.
    """

    architecture: Mapping[str, tuple[Any, Any]]
    shapes: Mapping[str, Shapes]
    missing: tuple[str, ...]
    added: tuple[str, ...]
    fitting: int
    tensors: int
    quantised: str | None
    rope: tuple[RopeSettings, RopeSettings]
    tokens: VocabularyMatch
    named: str | None
    shared: tuple[str, ...]
    files: int
    unread: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether a delta of the base can be added; if not, the model is not a fine-tune of the base."""
        return not (self.architecture or self.shapes or self.missing or self.quantised)


def check_compatibility(base: ModelFolder, model: ModelFolder) -> Compatibility:
    """Compare a model with a base, by the rules of `merge`, which may name tensors otherwise than the base.

    What `merge` refuses whatever the adapter is raises its error, unusable rotary settings InputError.
    """
    method = quantisation(model)
    if method is None:
        check_unquantised(model)
        check_names_and_head(model)
        check_vocabulary(model)
    model = aligned(model, base.tensors)
    layers = architecture(base.config)["num_hidden_layers"]
    wanted = {name: info for name, info in base.tensors.items() if _changed(info, base, layers)}
    if method is None:
        for name in wanted.keys() & model.tensors.keys():
            check_takes_delta(model, name, "a delta")
    if wanted.keys() - model.tensors.keys():
        heads = unloaded_heads(base, model)
        wanted = {name: info for name, info in wanted.items() if name not in heads}
    both = {name: (info.shape, model[name].shape) for name, info in wanted.items() if name in model.tensors}
    known, own = _digests(base), _digests(model)
    added = (name for name in model.tensors if name not in base.tensors and not rows_are_tokens(name))
    return Compatibility(
        architecture=architecture_differences(architecture(base.config), architecture(model.config)),
        shapes={name: shapes for name, shapes in both.items() if shapes[0] != shapes[1]},
        missing=tuple(name for name in wanted if name not in model.tensors),
        added=tuple(name for name in added if not is_buffer(model[name])),
        fitting=sum(shapes[0] == shapes[1] for shapes in both.values()),
        tensors=len(wanted),
        quantised=method,
        rope=(_rope(base), _rope(model)),
        tokens=_tokens(base, model),
        named=_named(model),
        shared=tuple(sorted(name for name, digest in own.items() if digest in known.values())),
        files=len(own),
    )


def reasons(match: Compatibility) -> Iterator[str]:
    """Reasons why a model does not fit the base; empty if it fits."""
    if match.quantised:
        yield f"quantised ({match.quantised}): take the unquantised weights"
    for key, (expected, received) in match.architecture.items():
        yield f"{key} {received}, the base {expected}"
    if match.quantised:
        return  # tensors have other names and shapes
    shapes = [f"{name} {list(b)}, the base {list(a)}" for name, (a, b) in match.shapes.items()]
    lists = (("shape of", shapes), ("lacks", list(match.missing)))
    for label, names in lists:
        if names and not match.architecture:
            yield f"{label} {first_names(names, SHOWN)}"


def _changed(info: TensorInfo, base: ModelFolder, layers: object) -> bool:
    """Whether an adapter could carry a delta of this tensor in every target, whatever its tokens are.

    Layers after the model's own predict further tokens: `extract` leaves them out.
    """
    layer = layer_of(info.name)
    further = layer is not None and isinstance(layers, int) and layer >= layers
    if further or rows_are_tokens(info.name):
        return False
    try:
        return tensor_role(info, base.path) in (TensorRole.LINEAR, TensorRole.DENSE)
    except CheckpointError:  # stacked experts: an adapter of the other tensors needs the same ones, too
        return True


def _rope(model: ModelFolder) -> settings.RopeSettings:
    return settings.read_any_length(model.config, model.path)


def _tokens(base: ModelFolder, model: ModelFolder) -> VocabularyMatch:
    words = _vocabulary(base), _vocabulary(model)
    rows = [
        next((info.rows for info in side.tensors.values() if rows_are_tokens(info.name)), None)
        for side in (base, model)
    ]
    return VocabularyMatch(
        (rows[0], rows[1]),
        (output_embedding(base.tensors) is None, output_embedding(model.tensors) is None),
        compare(words[0], words[1]) if words[0] is not None and words[1] is not None else None,
    )


def _vocabulary(folder: ModelFolder) -> dict[str, int] | None:
    try:
        return read_vocabulary(folder)
    except CheckpointError as error:
        raise_read_error(error, folder.path)
        return None  # an unknown tokenizer format does not make a model unusable


def _named(model: ModelFolder) -> str | None:
    name = model.config.get("_name_or_path")
    return name if isinstance(name, str) and name else None


def _digests(folder: ModelFolder) -> dict[str, str]:
    """SHA-256 of the weight files, as recorded by the hub."""
    record = read_sidecar(folder.path) if SIDECAR in folder.others else {}
    files = record.get("files")
    entries = files.items() if isinstance(files, Mapping) else ()
    return {
        name: entry["sha256"]
        for name, entry in entries
        if name in folder.shards and isinstance(entry, Mapping) and isinstance(entry.get("sha256"), str)
    }
