"""An adapter folder opened for merging: sidecar, factors and dense deltas, checked against each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from contextgraft.adapter import peft_format
from contextgraft.checkpoint.digest import json_digest, tensor_digest, tensor_table
from contextgraft.checkpoint.header import TensorFile
from contextgraft.checkpoint.identity import SIDECAR, read_sidecar
from contextgraft.checkpoint.layout import open_tensors, read_json
from contextgraft.checkpoint.reader import read_rows, read_tensor
from contextgraft.errors import CheckpointError, InputError
from contextgraft.rope import settings

PLAIN = {"peft_type": "LORA", "use_dora": False, "use_rslora": False, "fan_in_fan_out": False, "bias": "none"}


class Change(Protocol):
    """What is added to one tensor, row by row."""

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) in float32."""


@dataclass(frozen=True)
class LowRank:
    """scale * B @ A; A is held, B is read as it is needed."""

    file: TensorFile
    key: str
    A_RN: torch.Tensor
    scale: float

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) in float32."""
        return read_rows(self.file, self.key, start, stop).float() @ self.A_RN * self.scale


@dataclass(frozen=True)
class Dense:
    """scale * a delta that was kept whole."""

    delta: torch.Tensor
    scale: float

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Elements [start, stop) in float32."""
        return self.delta[start:stop] * self.scale


@dataclass(frozen=True)
class Adapter:
    """A checked adapter; `shapes` are the tensors of a model that it changes."""

    path: Path
    sidecar: dict[str, Any]
    factors: TensorFile
    dense: TensorFile | None
    scaling: dict[str, float]
    shapes: dict[str, tuple[int, ...]]

    @property
    def donor_rope(self) -> settings.RopeSettings:
        """The rotary settings that the weights were trained with."""
        return settings.from_json(self.sidecar["rope"]["donor"])

    def change(self, tensor: str, scale: float) -> Change:
        """What is added to one of the tensors in `shapes`."""
        if self.dense is not None and tensor in self.dense.tensors:
            return Dense(read_tensor(self.dense, tensor).float(), scale)
        key_A, key_B = peft_format.keys(peft_format.module_of(tensor))
        return LowRank(
            self.factors, key_B, read_tensor(self.factors, key_A).float(), scale * self.scaling[tensor]
        )

    def digest(self) -> str:
        """The identity of the adapter: its tensors, their scaling, and its rotary settings."""
        tables = [
            tensor_table(file.tensors, {name: tensor_digest(file, name) for name in file.tensors})
            for file in (self.factors, self.dense)
            if file is not None
        ]
        return json_digest(
            {"tensors": tables, "scaling": self.scaling, "rope": self.sidecar["rope"]["donor"]}
        )


def open_adapter(path: Path) -> Adapter:
    """Open and check an adapter that `extract` wrote; no factor is read.

    A folder without the sidecar or of another kind of adapter raises InputError or CheckpointError.
    """
    if not (path / SIDECAR).is_file():
        raise InputError(
            "is no adapter made by extract", path=path, expected=f"{SIDECAR} beside {peft_format.CONFIG}"
        )
    sidecar = read_sidecar(path, "adapter")
    config = _plain_config(path)
    factors = open_tensors(path / peft_format.WEIGHTS)
    scaling, shapes = _modules(path, config, factors)
    dense = open_tensors(path / peft_format.DENSE) if sidecar.get("dense") else None
    if dense is not None:
        shapes |= {name: info.shape for name, info in dense.tensors.items()}
    adapter = Adapter(path, sidecar, factors, dense, scaling, shapes)
    _check_sidecar(adapter)
    return adapter


def _plain_config(path: Path) -> dict[str, Any]:
    config = read_json(path / peft_format.CONFIG)
    odd = [key for key, value in PLAIN.items() if config.get(key, value) != value]
    odd += [key for key in ("modules_to_save",) if config.get(key)]
    if odd:
        raise CheckpointError(
            "is a kind of adapter that cannot be merged yet",
            path=path / peft_format.CONFIG,
            expected=f"plain LoRA: {odd[0]} {PLAIN.get(odd[0])}",
            received=config[odd[0]],
        )
    return config


def _modules(
    path: Path, config: dict[str, Any], factors: TensorFile
) -> tuple[dict[str, float], dict[str, tuple[int, ...]]]:
    """Scaling (alpha / rank) and weight shape by tensor; keys that are no pair of fitting factors raise."""
    scaling: dict[str, float] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    alphas = config.get("alpha_pattern") or {}
    rest = set(factors.tensors)
    for key in [key for key in factors.tensors if key.endswith(".lora_A.weight")]:
        module = key.removeprefix(peft_format.PREFIX).removesuffix(".lora_A.weight")
        key_A, key_B = peft_format.keys(module)
        A, B = factors.tensors.get(key_A), factors.tensors.get(key_B)
        if (
            A is None
            or B is None
            or len(A.shape) != 2
            or len(B.shape) != 2
            or A.shape[0] != B.shape[1]
            or not A.shape[0]
        ):
            raise CheckpointError(
                f"the factors of module {module!r} do not fit each other",
                path=path / peft_format.WEIGHTS,
                expected="lora_A [rank, in] and lora_B [out, rank]",
                received=f"{A and list(A.shape)} and {B and list(B.shape)}",
            )
        scaling[f"{module}.weight"] = alphas.get(module, config.get("lora_alpha", A.shape[0])) / A.shape[0]
        shapes[f"{module}.weight"] = (B.shape[0], A.shape[1])
        rest -= {key_A, key_B}
    if rest or not shapes:
        raise CheckpointError(
            "holds something else than pairs of LoRA factors",
            path=path / peft_format.WEIGHTS,
            received=min(rest) if rest else "no factors",
        )
    return scaling, shapes


def _check_sidecar(adapter: Adapter) -> None:
    needed = {"architecture": dict, "base": dict, "donor": dict, "max_length": int, "rank": int, "rope": dict}
    missing = [key for key, form in needed.items() if not isinstance(adapter.sidecar.get(key), form)]
    if missing:
        raise CheckpointError(
            f"lacks {', '.join(missing)}", path=adapter.path / SIDECAR, remedy="extract it again"
        )
    for side in ("base", "donor"):
        settings.from_json(adapter.sidecar["rope"].get(side))
