"""What an adapter's weights file holds: which tensor of a model each key changes, and how."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from contextgraft.adapter.lora.config import LoraConfig
from contextgraft.checkpoint.reader import DTYPES
from contextgraft.checkpoint.safetensors_header import TensorFile, TensorInfo
from contextgraft.errors import CheckpointError
from contextgraft.formats.peft import EMBEDDING_KEYS, LINEAR_KEYS, PREFIX

FACTOR = re.compile(
    r"(?P<module>.+)\.(?P<what>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.default)?(?:\.(?P<leaf>weight|bias))?$"
)
WRAPPED = re.compile(r"\.(modules_to_save(\.default)?|base_layer)(?=\.)")  # what PEFT's wrappers add to names


@dataclass(frozen=True)
class Factors:
    """scaling * B @ A on a weight; of an embedding the factors are those of the transposed weight."""

    shape: tuple[int, ...]
    key_A: str
    key_B: str
    scaling: float
    embedding: bool
    magnitude: str | None  # of DoRA (Liu et al. 2024): the norms of the result's rows


@dataclass(frozen=True)
class Addition:
    """scaling * a delta that was kept whole: of a norm, or of the bias that goes with lora_B."""

    shape: tuple[int, ...]
    key: str
    scaling: float


@dataclass(frozen=True)
class Replacement:
    """A whole tensor that takes the place of the target's own: modules_to_save, trained biases."""

    shape: tuple[int, ...]
    key: str


Part = Factors | Addition | Replacement


def parts_of(file: TensorFile, path: Path, config: LoraConfig) -> dict[str, Part]:
    """By tensor of the model; keys that are no pair of fitting factors raise CheckpointError."""
    modules: dict[str, dict[str, TensorInfo]] = {}
    parts: dict[str, Part] = {}
    for key, info in file.tensors.items():
        if info.dtype not in DTYPES or not DTYPES[info.dtype].is_floating_point:
            raise _bad(path, f"{key!r} cannot be computed with", "floating point", info.dtype)
        match = FACTOR.match(key.removeprefix(PREFIX))
        if match is None:
            parts[WRAPPED.sub("", key.removeprefix(PREFIX))] = Replacement(info.shape, key)
            continue
        what = match["what"] + (".bias" if match["leaf"] == "bias" else "")
        if modules.setdefault(match["module"], {}).setdefault(what, info) is not info:
            raise _bad(path, f"has {what} of module {match['module']!r} twice", "one", key)
    for module, found in modules.items():
        parts |= dict(_module(module, found, path, config))
    kept = {name.rpartition(".")[0] for name, part in parts.items() if isinstance(part, Replacement)}
    lost = [name for name in config.modules_to_save or () if not any(each.endswith(name) for each in kept)]
    if lost:
        raise _bad(path, "lacks modules that its config saves", ", ".join(lost), ", ".join(kept) or "none")
    if not parts:
        raise _bad(path, "holds no factors", "lora_A and lora_B", "nothing")
    return parts


def _module(
    module: str, found: Mapping[str, TensorInfo], path: Path, config: LoraConfig
) -> Iterator[tuple[str, Part]]:
    embedding = any(key.startswith("lora_embedding") for key in found)
    first, second = (key.partition(".")[0] for key in (EMBEDDING_KEYS if embedding else LINEAR_KEYS))
    A, B = found.get(first), found.get(second)
    rank = _rank(A, B)
    magnitude = found.get("lora_magnitude_vector")
    if (
        A is None
        or B is None
        or not rank
        or set(found) - {first, second, "lora_magnitude_vector", "lora_B.bias"}
    ):
        raise _bad(
            path, f"the factors of module {module!r} do not fit each other",
            f"{first} [rank, in] and {second} [out, rank]",
            ", ".join(f"{key} {list(info.shape)}" for key, info in sorted(found.items())),
        )  # fmt: skip
    if rank != config.rank(module):
        raise _bad(
            path, f"module {module!r} has another rank than its config says",
            f"rank {config.rank(module)} (r and rank_pattern)", f"rank {rank}",
        )  # fmt: skip
    if (magnitude is not None) != config.use_dora:
        raise _bad(
            path, f"module {module!r} and the config disagree about DoRA",
            f"use_dora {config.use_dora}", f"lora_magnitude_vector: {magnitude is not None}",
        )  # fmt: skip
    if magnitude is not None and (embedding or magnitude.numel != B.shape[0]):
        raise _bad(
            path, f"the magnitudes of module {module!r} cannot be used",
            f"{B.shape[0]} of a linear layer", f"{list(magnitude.shape)}",
        )  # fmt: skip
    shape = (A.shape[1], B.shape[0]) if embedding else (B.shape[0], A.shape[1])
    scaling = config.scaling(module)
    key = magnitude.name if magnitude is not None else None
    yield f"{module}.weight", Factors(shape, A.name, B.name, scaling, embedding, key)
    if "lora_B.bias" in found:
        yield f"{module}.bias", Addition(found["lora_B.bias"].shape, found["lora_B.bias"].name, scaling)


def _rank(A: TensorInfo | None, B: TensorInfo | None) -> int:
    """The common rank of two factors; 0 if there is none."""
    if A is None or B is None or len(A.shape) != 2 or len(B.shape) != 2:
        return 0
    return A.shape[0] if A.shape[0] == B.shape[1] else 0


def _bad(path: Path, what: str, expected: str, received: str) -> CheckpointError:
    return CheckpointError(
        what, path=path, expected=expected, received=received, remedy="fetch or extract it again"
    )
