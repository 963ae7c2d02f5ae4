"""The keys of PEFT's weights file of a LoRA or DoRA adapter as entries."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from contextgraft.adapter.lora.config import LoraConfig
from contextgraft.adapter.lora.entries import AdapterEntry, AdditiveEntry, ReplaceEntry, TokenRowsEntry
from contextgraft.adapter.lora.files.token_rows import check_trained_rows, token_rows_entry
from contextgraft.adapter.lora.low_rank import LowRankEntry, RebasedEntry, StackedEntry
from contextgraft.adapter.lora.parameter_names import WRAPPER
from contextgraft.adapter.peft_keys import (
    FACTOR,
    TOKEN_ROWS,
    UNUSED,
    check_keys,
    model_name,
    saved_twice,
    wrappers,
)
from contextgraft.checkpoint.full_precision import check_gathered
from contextgraft.checkpoint.safetensors_header import TensorFile, TensorInfo
from contextgraft.errors import CheckpointError, first_names
from contextgraft.formats.peft import EMBEDDING_KEYS, LINEAR_KEYS, TIED_BY_PEFT
from contextgraft.formats.tensor_names import FLOATS


def lora_entries(file: TensorFile, path: Path, config: LoraConfig) -> dict[str, AdapterEntry]:
    """Entries by tensor of the model; keys that are not a pair of fitting factors raise CheckpointError."""
    check_gathered(file.tensors.values(), path)
    check_keys(file.tensors, path)
    wrapped, copies = wrappers(file.tensors), saved_twice(file.tensors)
    modules: dict[str, dict[str, TensorInfo]] = {}
    entries: dict[str, AdapterEntry] = {}
    for key, info in file.tensors.items():
        if UNUSED.search(key) or key in copies:
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
            entries[tensor] = token_rows_entry(name, info, path, config) if rows else whole
            continue
        what = match["what"] + (".bias" if match["leaf"] == "bias" else "")
        if modules.setdefault(match["module"], {}).setdefault(what, info) is not info:
            raise _malformed(path, f"has {what} of module {match['module']!r} twice", "one", key)
    parameters = config.adapted_parameters(modules)
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
    check_trained_rows(entries, path, config)
    _check_parameters(parameters.values(), path, config)
    if not entries:
        raise _malformed(path, "holds no factors", "lora_A and lora_B", "nothing")
    return entries


def _check_parameters(known: Iterable[str], path: Path, config: LoraConfig) -> None:
    """Raise CheckpointError for a parameter that the config adapts and the file has no factors of."""
    targets = [name for name in config.target_parameters or () if not name.endswith(".weight")]
    names = [f".{name}" for name in known]
    missing = [target for target in targets if not any(name.endswith(f".{target}") for name in names)]
    if missing:
        raise _malformed(
            path, "lacks the factors of parameters that its config adapts",
            f"those of {first_names(missing, 3)} (target_parameters)", "none that can be told apart",
        )  # fmt: skip


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
