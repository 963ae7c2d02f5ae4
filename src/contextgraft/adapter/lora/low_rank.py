"""LoRA and DoRA: the keys of PEFT's weights file as entries.

Legend of shape suffixes: M rows, N columns, R rank.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from contextgraft.adapter.lora.config import LoraConfig
from contextgraft.adapter.lora.entries import AdapterEntry, AdditiveEntry, ReplaceEntry, TokenRowsEntry
from contextgraft.adapter.lora.parameter_names import WRAPPER, adapted_parameters
from contextgraft.adapter.peft_keys import FACTOR, TOKEN_ROWS, UNUSED, check_keys, model_name, wrappers
from contextgraft.checkpoint.full_precision import check_gathered
from contextgraft.checkpoint.safetensors_header import TensorFile, TensorInfo
from contextgraft.errors import CheckpointError
from contextgraft.formats.peft import EMBEDDING_KEYS, LINEAR_KEYS, TIED_BY_PEFT
from contextgraft.formats.tensor_names import FLOATS

if TYPE_CHECKING:
    from contextgraft.adapter.lora.array_deltas import ArrayDelta, ReadFloats
    from contextgraft.adapter.lora.deltas import FactorPair, Read, TensorDelta


@dataclass(frozen=True)
class LowRankEntry(AdapterEntry):
    """scaling * B @ A on a weight; of an embedding the factors are those of the transposed weight."""

    key_A: str
    key_B: str
    embedding: bool
    magnitude: str | None  # key of DoRA's magnitudes (Liu et al. 2024): the norms of the result's rows

    @property
    @override
    def needs_model(self) -> bool:
        return self.magnitude is not None

    @override
    def load(self, read: "Read", scale: float, rows: Sequence[int] | None) -> "TensorDelta":
        from contextgraft.adapter.lora.deltas import DoraDelta, LowRankDelta, matched_rows

        left_MR, right_RN = self._factors(read)
        left_MR = matched_rows(left_MR, rows)
        if self.magnitude is None:
            return LowRankDelta(left_MR.contiguous(), right_RN.contiguous() * (self.scaling * scale))
        low_rank = LowRankDelta(left_MR, right_RN * self.scaling)
        return DoraDelta(low_rank, read(self.magnitude).reshape(-1), scale)

    @property
    @override
    def has_arrays(self) -> bool:
        return not self.needs_model

    @override
    def load_arrays(self, read: "ReadFloats", scale: float, rows: Sequence[int] | None) -> "ArrayDelta":
        from contextgraft.adapter.lora.array_deltas import low_rank_arrays

        factors = read(self.key_A), read(self.key_B)
        return low_rank_arrays(*factors, self.scaling * scale, rows, transposed=self.embedding)

    @override
    def product(self, read: "Read") -> "FactorPair | None":
        left_MR, right_RN = self._factors(read)
        return left_MR, right_RN * self.scaling

    def _factors(self, read: "Read") -> "FactorPair":
        A, B = read(self.key_A), read(self.key_B)
        return (A.T, B.T) if self.embedding else (B, A)


@dataclass(frozen=True)
class StackedEntry(LowRankEntry):
    """Factors of [experts, outputs, inputs]; `embedding` if the tensor is stored [experts, inputs, outputs].

    lora_A is [R x E, N], expert by expert; lora_B is [M, R x E], with the experts of a rank next to each
    other.
    """

    experts: int = 1

    @override
    def load(self, read: "Read", scale: float, rows: Sequence[int] | None) -> "TensorDelta":
        from contextgraft.adapter.lora.deltas import StackedDelta

        A, B = read(self.key_A), read(self.key_B)
        right_ERN = A.reshape(self.experts, -1, A.shape[1])
        left_EMR = B.reshape(len(B), -1, self.experts).permute(2, 0, 1)
        if self.embedding:
            left_EMR, right_ERN = right_ERN.transpose(1, 2), left_EMR.transpose(1, 2)
        return StackedDelta(left_EMR.contiguous(), right_ERN.contiguous() * (self.scaling * scale))

    @override
    def load_arrays(self, read: "ReadFloats", scale: float, rows: Sequence[int] | None) -> "ArrayDelta":
        from contextgraft.adapter.lora.array_deltas import stacked_arrays

        factors = read(self.key_A), read(self.key_B)
        return stacked_arrays(*factors, self.scaling * scale, self.experts, transposed=self.embedding)

    @override
    def product(self, read: "Read") -> "FactorPair | None":
        return None


@dataclass(frozen=True)
class RebasedEntry(LowRankEntry):
    """Factors together with the weight they are added to, which PEFT loads in place of the target's."""

    base_key: str
    replaces: ClassVar[bool] = True

    @property
    @override
    def needs_model(self) -> bool:
        return True

    @property
    def base(self) -> ReplaceEntry:
        """The entry that only replaces the target's weight by the stored one, without the factors."""
        return ReplaceEntry(self.shape, 1.0, self.base_key)

    @property
    def factors(self) -> LowRankEntry:
        """The entry that only adds the product of the factors."""
        return LowRankEntry(self.shape, self.scaling, self.key_A, self.key_B, self.embedding, self.magnitude)

    @override
    def load(self, read: "Read", scale: float, rows: Sequence[int] | None) -> "TensorDelta":
        from contextgraft.adapter.lora.deltas import RebasedDelta

        return RebasedDelta(self.base.load(read, scale, rows), self.factors.load(read, scale, rows))


def lora_entries(file: TensorFile, path: Path, config: LoraConfig) -> dict[str, AdapterEntry]:
    """Entries by tensor of the model; keys that are not a pair of fitting factors raise CheckpointError."""
    check_gathered(file.tensors.values(), path)
    check_keys(file.tensors, path)
    wrapped = wrappers(file.tensors)
    modules: dict[str, dict[str, TensorInfo]] = {}
    entries: dict[str, AdapterEntry] = {}
    for key, info in file.tensors.items():
        if UNUSED.search(key):
            continue
        if info.dtype not in (*FLOATS, "F64"):
            raise _malformed(path, f"{key!r} cannot be computed with", "floating point", info.dtype)
        name = model_name(key)
        match = FACTOR.match(name)
        if match is None:
            rows = TOKEN_ROWS in name
            tensor = f"{name.partition(TOKEN_ROWS)[0]}.weight" if rows else wrapped.sub("", name)
            if tensor in entries and (rows or isinstance(entries[tensor], TokenRowsEntry)):
                raise _malformed(path, f"changes {tensor!r} twice", "a weight or rows of tokens", "both")
            whole = ReplaceEntry(info.shape, 1.0, key)
            entries[tensor] = _token_rows(name, info, path, config) if rows else whole
            continue
        what = match["what"] + (".bias" if match["leaf"] == "bias" else "")
        if modules.setdefault(match["module"], {}).setdefault(what, info) is not info:
            raise _malformed(path, f"has {what} of module {match['module']!r} twice", "one", key)
    parameters = adapted_parameters(modules, config.target_parameters or ())
    for module, tensors in modules.items():
        name = parameters.get(module, f"{module}.weight")
        base = entries.get(name)
        if module in parameters:
            entries[name] = _entry_of_parameter(name, tensors, path, config)
        else:
            entries |= dict(_entries_of_module(module, tensors, path, config))
        entry = entries[name]
        if isinstance(base, ReplaceEntry) and type(entry) is LowRankEntry:
            entries[name] = RebasedEntry(**vars(entry), base_key=base.key)
        elif base is not None:
            raise _malformed(path, f"changes {module!r} twice", "factors or rows of tokens", "both")
    _check_saved_modules(entries, path, config)
    _check_parameters(parameters.values(), path, config)
    if not entries:
        raise _malformed(path, "holds no factors", "lora_A and lora_B", "nothing")
    return entries


def _token_rows(name: str, info: TensorInfo, path: Path, config: LoraConfig) -> TokenRowsEntry:
    """The entry of trained rows; their tokens are in the config, by module or for the input embeddings."""
    module = name.partition(TOKEN_ROWS)[0]
    listed = config.trainable_token_indices or {}
    by_module = listed if isinstance(listed, dict) else {module: listed}
    tokens = next((rows for suffix, rows in by_module.items() if f".{module}".endswith(f".{suffix}")), [])
    if len(info.shape) != 2 or len(tokens) != info.shape[0] or not tokens or min(tokens) < 0:
        raise _malformed(
            path, f"the trained rows of {module!r} do not fit the config's trainable_token_indices",
            f"a row for each of {len(tokens)} tokens", f"shape {list(info.shape)}",
        )  # fmt: skip
    return TokenRowsEntry(info.shape, 1.0, info.name, tuple(tokens))


def _check_parameters(known: Iterable[str], path: Path, config: LoraConfig) -> None:
    """Raise CheckpointError for a parameter that the config adapts and the file has no factors of."""
    targets = [name for name in config.target_parameters or () if not name.endswith(".weight")]
    names = [f".{name}" for name in known]
    missing = [target for target in targets if not any(name.endswith(f".{target}") for name in names)]
    if missing:
        raise _malformed(
            path, "lacks the factors of parameters that its config adapts",
            f"those of {', '.join(missing)} (target_parameters)", "none that can be told apart",
        )  # fmt: skip


def _check_saved_modules(entries: Mapping[str, AdapterEntry], path: Path, config: LoraConfig) -> None:
    saved = {name.rpartition(".")[0] for name, entry in entries.items() if entry.replaces}
    missing = [
        name
        for name in config.modules_to_save or ()
        if not any(f"{name}." in f"{module}." for module in saved)  # one that holds others is saved as those
    ]
    if missing:
        expected = ", ".join(missing)
        raise _malformed(path, "lacks modules that its config saves", expected, ", ".join(saved) or "none")


def _entries_of_module(
    module: str, tensors: Mapping[str, TensorInfo], path: Path, config: LoraConfig
) -> Iterator[tuple[str, AdapterEntry]]:
    embedding = any(key.startswith("lora_embedding") for key in tensors)
    first, second = (key.partition(".")[0] for key in (EMBEDDING_KEYS if embedding else LINEAR_KEYS))
    A, B = tensors.get(first), tensors.get(second)
    rank = _rank(A, B)
    if module.endswith(WRAPPER):
        raise _malformed(
            path, f"the factors of {module!r} belong to a parameter that its config does not name",
            "target_parameters with every parameter of the module", f"{config.target_parameters}",
        )  # fmt: skip
    magnitude = tensors.get("lora_magnitude_vector")
    known = {first, second, "lora_magnitude_vector", "lora_B.bias"}
    if A is None or B is None or not rank or set(tensors) - known:
        raise _malformed(
            path, f"the factors of module {module!r} do not fit each other",
            f"{first} [rank, in] and {second} [out, rank]",
            ", ".join(f"{key} {list(info.shape)}" for key, info in sorted(tensors.items())),
        )  # fmt: skip
    # the copy of tied factors has the rank of the input embeddings
    is_copy = not embedding and config.ties_embeddings and module.rpartition(".")[2] in TIED_BY_PEFT
    if rank != config.rank(module) and not is_copy:
        raise _malformed(
            path, f"module {module!r} has another rank than its config says",
            f"rank {config.rank(module)} (r and rank_pattern)", f"rank {rank}",
        )  # fmt: skip
    if (magnitude is not None) != config.use_dora:
        raise _malformed(
            path, f"module {module!r} and the config disagree about DoRA",
            f"use_dora {config.use_dora}", f"lora_magnitude_vector: {magnitude is not None}",
        )  # fmt: skip
    if magnitude is not None and embedding:
        raise CheckpointError(
            f"has DoRA on the embeddings {module!r}, which needs the norms of whole columns", path=path,
            expected="DoRA on linear layers", remedy="merge it with PEFT (merge_and_unload)",
        )  # fmt: skip
    if magnitude is not None and magnitude.numel != B.shape[0]:
        raise _malformed(
            path, f"the magnitudes of module {module!r} cannot be used",
            f"{B.shape[0]} of a linear layer", f"{list(magnitude.shape)}",
        )  # fmt: skip
    shape = (A.shape[1], B.shape[0]) if embedding else (B.shape[0], A.shape[1])
    scaling = config.scaling(module)
    key = magnitude.name if magnitude is not None else None
    yield f"{module}.weight", LowRankEntry(shape, scaling, A.name, B.name, embedding, key)
    if "lora_B.bias" in tensors:
        bias = tensors["lora_B.bias"]
        yield f"{module}.bias", AdditiveEntry(bias.shape, scaling, bias.name)


def _entry_of_parameter(
    name: str, tensors: Mapping[str, TensorInfo], path: Path, config: LoraConfig
) -> LowRankEntry:
    """The entry of a parameter, whose factors hold those of all experts if it stacks several."""
    A, B = (tensors.get(key.partition(".")[0]) for key in LINEAR_KEYS)
    rows, rank = _rank(A, B), config.rank(name)
    if A is None or B is None or len(tensors) > 2 or not rows or rows % rank:
        raise _malformed(
            path, f"the factors of parameter {name!r} do not fit each other",
            f"lora_A [experts x {rank}, in] and lora_B [out, {rank} x experts]",
            ", ".join(f"{key} {list(info.shape)}" for key, info in sorted(tensors.items())),
        )  # fmt: skip
    scaling, shape = config.scaling(name), (B.shape[0], A.shape[1])
    if rows == rank:
        return LowRankEntry(shape, scaling, A.name, B.name, False, None)
    experts = rows // rank
    return StackedEntry((experts, *shape), scaling, A.name, B.name, False, None, experts)


def _rank(A: TensorInfo | None, B: TensorInfo | None) -> int:
    """The common rank of two factors; 0 if there is none."""
    if A is None or B is None or len(A.shape) != 2 or len(B.shape) != 2:
        return 0
    return A.shape[0] if A.shape[0] == B.shape[1] else 0


def _malformed(path: Path, what: str, expected: str, received: str) -> CheckpointError:
    return CheckpointError(
        what, path=path, expected=expected, received=received, remedy="fetch or extract it again"
    )
