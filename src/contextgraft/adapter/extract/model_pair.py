"""A base and a donor that fit each other: which tensors to read, and estimates, from the headers alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from contextgraft.adapter.compute.tiles import DELTA_TILE
from contextgraft.adapter.extract.rank_spec import TensorSelection
from contextgraft.adapter.extract.shorter_context import shorter_context
from contextgraft.adapter.lora.reader_limits import reader_limits
from contextgraft.checkpoint.full_precision import check_full_precision
from contextgraft.checkpoint.model_folder import ModelFolder, open_model
from contextgraft.checkpoint.safetensors_header import ITEM_BYTES, TensorInfo
from contextgraft.errors import CheckpointError, InputError, MismatchError
from contextgraft.formats.architecture import (
    OTHER_LAYOUT,
    architecture,
    check_architecture,
    check_shape,
)
from contextgraft.formats.model.aligned_names import aligned, with_names
from contextgraft.formats.model.copied_files import other_weights
from contextgraft.formats.model.own_files import check_own_file
from contextgraft.formats.model.parameters import ModuleParameter, is_parameter, module_parameters
from contextgraft.formats.model.tied_head import HeadState, follows_input, head_state, with_head
from contextgraft.formats.model.unloaded_heads import unloaded_heads
from contextgraft.formats.model.vocabulary import TOKENIZER, correspondence, read_vocabulary
from contextgraft.formats.tensor_names import (
    BY_TOKEN,
    FACTORISED,
    TensorRole,
    holds_positions,
    layer_of,
    output_embedding,
    stored_transposed,
    without_wrappers,
)
from contextgraft.rope import settings, travelling
from contextgraft.rope.text_section import text_section
from contextgraft.rope.travelling import ConfigDifference, compare_configs

LIBRARY_BYTES = 1 << 27  # memory of the linear algebra library itself
DELTA_CACHE_BYTES = 80 << 20  # per thread: tiles of a delta kept for later passes, and the basis


@dataclass(frozen=True)
class ModelPair:
    """Tensor names by kind; `unpaired` are ignored tensors of one side only, or of different shapes.

    `donor_rows` has the row of the donor's embeddings for each row of the base's, if they differ. Both models
    have the base's names; `parameters` are tensors that PEFT adapts as parameters, under the names of the
    model in memory. `tied`: in both, the output layer is the input embeddings.
    """

    base: ModelFolder
    donor: ModelFolder
    selection: TensorSelection
    names_by_role: dict[TensorRole, tuple[str, ...]]
    unpaired: tuple[str, ...]
    donor_rows: Sequence[int] | None
    tied: bool = False
    parameters: Mapping[str, ModuleParameter] = field(default_factory=dict)

    @cached_property
    def factorised(self) -> tuple[str, ...]:
        """Names of the tensors that get factors."""
        return tuple(name for kind in FACTORISED for name in self.names_by_role[kind])

    @property
    def bytes_to_read(self) -> int:
        """Bytes of both models, each counted once."""
        return sum(info.bytes for side in (self.base, self.donor) for info in side.tensors.values())

    @cached_property
    def difference(self) -> ConfigDifference:
        """What the donor's config changes against the base's, in addition to RoPE."""
        return compare_configs(self.base.config, self.donor.config, self.donor.path)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Files that could be read instead, settings that are lost, modules that readers do not apply."""
        files = [line for side in (self.base, self.donor) for line in other_weights(side, "the adapter is")]
        settings_of_donor = (
            f"{self.donor.path}: its {name} is {setting.donor}, the base's {setting.base}; an adapter does "
            "not carry this setting, so a graft computes with the target's"
            for name, setting in self.difference.others.items()
        )
        limits = reader_limits(architecture(self.base.config), self.factorised)
        return (*shorter_context(self.base, self.donor), *files, *settings_of_donor, *limits)

    def context_record(self) -> dict[str, Any]:
        """What sidecars record of both configs: RoPE, the attention settings, the donor's context length."""
        rope = {"base": self.base, "donor": self.donor}
        read = {side: settings.read_any_length(folder.config, folder.path) for side, folder in rope.items()}
        return {
            "rope": {side: settings.to_record(value) for side, value in read.items()},
            "attention": {
                "base": travelling.stated_values(self.base.config),
                "changed": travelling.to_json(self.difference.travelling),
                "not_carried": travelling.to_json(self.difference.others),
            },
            "max_length": read["donor"].context,
        }

    def factor_bytes(self, rank: int) -> int:
        """Bytes of the factors of one adapter, if every module has this rank or that of its smaller side."""
        infos = [(self.base[name].shape, self.donor[name].dtype) for name in self.factorised]
        return sum(
            math.prod(shape[:-2]) * min(rank, *shape[-2:]) * sum(shape[-2:]) * ITEM_BYTES[dtype]
            for shape, dtype in infos
        )

    def size_key(self, name: str) -> tuple[int, str]:
        """Sort key: the largest tensors come last."""
        return self.base[name].numel, name

    @property
    def longer(self) -> tuple[str, ...]:
        """Tables of learned positions that the donor made longer."""
        dense = self.names_by_role[TensorRole.DENSE]
        return tuple(name for name in dense if self.donor[name].rows > self.base[name].rows)

    def is_transposed(self, name: str) -> bool:
        """Whether a tensor that gets factors is stored [in, out], apart from embeddings."""
        parameter = self.parameters.get(name)
        return stored_transposed(name, self.base.config) if parameter is None else parameter.inputs_first

    def rows_for(self, name: str) -> Sequence[int] | None:
        """The donor's rows for a tensor whose rows are tokens; None where rows correspond as they stand."""
        by_token = any(name in self.names_by_role[kind] for kind in BY_TOKEN)
        return self.donor_rows if by_token else None

    def keep_bytes(self, name: str, rank: int, cache: int) -> int:
        """Bytes of a delta that may be kept, so that delta and basis together take `cache` bytes."""
        return max(0, cache - self._basis_bytes(name, rank))

    def peak_bytes(self, rank: int, threads: int) -> int:
        """Estimate of the memory in addition to the program's own: tiles, kept deltas and factors."""
        basis = max(self._basis_bytes(name, rank) for name in self.factorised)
        return LIBRARY_BYTES + threads * (max(DELTA_CACHE_BYTES, basis) + basis + 16 * DELTA_TILE)

    def _basis_bytes(self, name: str, rank: int) -> int:
        """Estimate of the iteration's memory at a rank: two bases of two and a half times that width.

        The factors of a stack of experts are in memory until the last expert's are known.
        """
        shape = self.base[name].shape
        return (12 * max(rank, 16) + 8 * rank * (math.prod(shape[:-2]) - 1)) * sum(shape[-2:])


def open_pair(base_path: Path, donor_path: Path, selection: TensorSelection | None = None) -> ModelPair:
    """Open both; other architectures, shapes or unreadable RoPE settings raise before any weight is read."""
    selection = selection or TensorSelection()
    base, donor = open_model(base_path), open_model(donor_path)
    plain = {name: without_wrappers(name) for name in base.tensors}
    base = with_names(base, {name: bare for name, bare in plain.items() if bare not in base.tensors})
    for folder in (base, donor):
        check_full_precision(folder, "the difference of two models")
    check_architecture(donor, f"the base {base_path}", architecture(base.config))
    for folder in (base, donor):
        settings.read_any_length(folder.config, folder.path)
    base, donor, shared_head = _with_heads(
        base, aligned(donor, base.tensors), selected=TensorRole.OUTPUT in selection.embeddings
    )
    layers = text_section(base.config).get("num_hidden_layers")
    heads = unloaded_heads(base, donor) | unloaded_heads(donor, base)
    names: dict[TensorRole, list[str]] = {role: [] for role in TensorRole}
    unpaired = []
    for name in sorted({*base.tensors, *donor.tensors}):
        sides = [folder.tensors[name] for folder in (base, donor) if name in folder.tensors]
        role = _role(selection, name, sides[0], base_path if name in base.tensors else donor_path, layers)
        fits = len(sides) == 2 and sides[0].shape == sides[1].shape
        same_columns = len(sides) == 2 and sides[0].shape[1:] == sides[1].shape[1:]
        longer = holds_positions(name) and same_columns and sides[0].rows < sides[1].rows
        if holds_positions(name) and not (fits or longer):
            raise _learned_positions(donor_path, name, sides)
        if name == shared_head or name in heads:
            role = TensorRole.IGNORED
        if role in (TensorRole.IGNORED, TensorRole.UNSUPPORTED) and not fits and not longer:
            unpaired.append(name)
            continue
        if name not in base.tensors:
            other = f"; {OTHER_LAYOUT}" if ".experts." in name else ""
            raise MismatchError(
                f"lacks tensor {name!r}", path=base_path, remedy=f"{donor_path} has it{other}"
            )  # fmt: skip
        shape = base[name].shape
        if (role in BY_TOKEN and name in donor.tensors) or longer:
            shape = (donor[name].rows, *shape[1:])  # the number of tokens may differ, and of positions
        check_shape(donor, name, f"the base {base_path}", shape)
        _role(selection, name, donor[name], donor_path, layers)  # raises for more than two dimensions
        names[role].append(name)
    parameters = _parameters(base, names[TensorRole.LINEAR])
    in_memory = {name: parameter.name for name, parameter in parameters.items()}
    base, donor = with_names(base, in_memory), with_names(donor, in_memory)
    by_role = {
        role: tuple(sorted(in_memory.get(name, name) for name in listed)) for role, listed in names.items()
    }
    _check_not_empty(base_path, by_role, selection)
    if any(by_role[role] for role in BY_TOKEN) and (base_path / TOKENIZER).exists():
        check_own_file(base_path, TOKENIZER)  # is copied into the adapter
    rows = _donor_rows(base, donor, by_role)
    adapted = {parameter.name: parameter for parameter in parameters.values()}
    return ModelPair(base, donor, selection, by_role, tuple(unpaired), rows, shared_head is not None, adapted)


def _parameters(base: ModelFolder, names: Sequence[str]) -> dict[str, ModuleParameter]:
    """Those of the tensors that PEFT adapts as parameters, if there is one that no linear layer has."""
    special = [name for name in names if is_parameter(base[name])]
    known = module_parameters(base) if special else {}
    parameters = {name: known[base[name].name] for name in names if base[name].name in known}
    parameters = {name: parameter for name, parameter in parameters.items() if not parameter.is_plain}
    missing = next((name for name in special if name not in parameters), None)
    if missing is not None:
        raise CheckpointError(
            f"tensor {missing!r} cannot be factorised", path=base.path / base[missing].shard,
            expected="a parameter of the model as transformers 5 loads it, which PEFT could adapt",
            received=f"{list(base[missing].shape)} of a {base.config.get('model_type')}",
            remedy="install transformers (the extra train), or --exclude it",
        )  # fmt: skip
    return parameters


def _with_heads(
    base: ModelFolder, donor: ModelFolder, *, selected: bool
) -> tuple[ModelFolder, ModelFolder, str | None]:
    """Both with an output layer, if it is selected and one has its own; the name of a shared one.

    A stored copy of tied embeddings is not treated as a separate tensor.
    """
    states = head_state(base), head_state(donor)
    name = output_embedding({**base.tensors, **donor.tensors})
    if all(follows_input(side, state) for side, state in zip((base, donor), states, strict=True)):
        return base, donor, name or ""
    if name is None or not selected:
        return base, donor, None
    base, donor = (
        with_head(side, name) if state is HeadState.TIED else side
        for side, state in zip((base, donor), states, strict=True)
    )
    return base, donor, None


def _role(selection: TensorSelection, name: str, info: TensorInfo, path: Path, layers: object) -> TensorRole:
    """The role of a tensor by the base's name for it; layers after the model's own predict further tokens."""
    layer = layer_of(name)
    if layer is not None and isinstance(layers, int) and layer >= layers:
        return TensorRole.IGNORED
    return selection.role(replace(info, name=name), path)


def _learned_positions(path: Path, name: str, sides: Sequence[TensorInfo]) -> MismatchError:
    return MismatchError(
        f"its context is a table of learned positions, {name!r}, which does not fit the base's",
        path=path, expected="as many positions as the base, or more",
        received=" and ".join(f"{info.rows} positions" for info in sides),
    )  # fmt: skip


def _check_not_empty(
    path: Path, names: dict[TensorRole, tuple[str, ...]], selection: TensorSelection
) -> None:
    if selection.embeddings and not any(names[kind] for kind in BY_TOKEN):
        raise InputError(
            "has no such embeddings",
            path=path,
            expected=" or ".join(f"{kind} embeddings" for kind in selection.embeddings),
            received="tied or missing ones",
            remedy="leave --embeddings out, or take the input embeddings, which a tied model shares",
        )
    in_layers = any(layer_of(name) is not None for name in names[TensorRole.LINEAR])
    if not in_layers and not any(names[kind] for kind in BY_TOKEN):
        raise InputError(
            "has no linear weights in layers that are selected",
            path=path,
            expected="...layers.<n>...weight with two dimensions",
        )


def _donor_rows(
    base: ModelFolder, donor: ModelFolder, names: dict[TensorRole, tuple[str, ...]]
) -> list[int] | None:
    by_token = [name for kind in BY_TOKEN for name in names[kind]]
    if not by_token:
        return None
    same_rows = all(base[name].rows == donor[name].rows for name in by_token)
    if same_rows and read_vocabulary(base) == read_vocabulary(donor):
        return None
    for folder in (base, donor):
        counts = {folder[name].rows for name in by_token}
        if len(counts) > 1:
            raise MismatchError(
                "has input and output embeddings of different lengths, whose rows cannot be matched",
                path=folder.path, received=f"{sorted(counts)} rows", remedy="select one of them",
            )  # fmt: skip
    sides = [(read_vocabulary(folder), folder[by_token[0]].rows) for folder in (base, donor)]
    return correspondence(sides[0], sides[1])
