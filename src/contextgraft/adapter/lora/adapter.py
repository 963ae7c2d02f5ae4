"""An adapter folder opened for merging: any PEFT LoRA, and with its sidecar one that `extract` wrote."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from contextgraft.adapter.lora.config import LoraConfig, read_config
from contextgraft.adapter.lora.deltas import Change, change
from contextgraft.adapter.lora.modules import Addition, Factors, Part, Replacement, parts_of
from contextgraft.checkpoint.digest import json_digest, tensor_digest, tensor_table
from contextgraft.checkpoint.model_folder import open_tensors
from contextgraft.checkpoint.reader import read_tensor
from contextgraft.checkpoint.safetensors_header import TensorFile
from contextgraft.checkpoint.vocabulary import TOKENIZER, vocabulary_at
from contextgraft.errors import CheckpointError, InputError
from contextgraft.formats import peft
from contextgraft.formats.sidecar import SIDECAR, read_sidecar
from contextgraft.rope import settings


@dataclass(frozen=True)
class Adapter:
    """A checked adapter; `parts` says which tensors of a model it changes, and how.

    `sidecar` is None for adapters that other programs wrote.
    """

    path: Path
    config: LoraConfig
    sidecar: dict[str, Any] | None
    files: tuple[TensorFile, ...]
    parts: dict[str, Part]

    @property
    def rope(self) -> settings.RopeSettings | None:
        """The rotary settings that the weights were trained with, if they are on record."""
        return settings.from_json(self.sidecar["rope"]["donor"]) if self.sidecar else None

    @property
    def rank(self) -> int:
        """The largest rank of any module."""
        modules = [peft.module_of(name) for name in self.factors]
        return max([self.config.rank(module) for module in modules], default=0)

    @property
    def factors(self) -> dict[str, Factors]:
        """The parts that are low-rank factors."""
        return {name: part for name, part in self.parts.items() if isinstance(part, Factors)}

    @property
    def replaced(self) -> tuple[str, ...]:
        """Tensors that the adapter would overwrite."""
        return tuple(sorted(name for name, part in self.parts.items() if isinstance(part, Replacement)))

    @property
    def origin(self) -> dict[str, Any]:
        """Identities of base and donor, as far as they are on record."""
        if self.sidecar:
            return {key: self.sidecar[key] for key in ("base", "donor")}
        unknown = {"digest": None, "source": None, "revision": None}
        base = {"name": self.config.base_model_name_or_path, **unknown}
        return {"base": base, "donor": {"name": self.path.resolve().name, **unknown}}

    @cached_property
    def vocabulary(self) -> dict[str, int] | None:
        """Token -> row of its embeddings, if a tokenizer lies beside the weights."""
        path = self.path / TOKENIZER
        return vocabulary_at(path) if path.exists() else None

    def read(self, key: str) -> torch.Tensor:
        """One of its tensors. Values that are not finite raise CheckpointError."""
        file = next(file for file in self.files if key in file.tensors)
        tensor = read_tensor(file, key)
        if not tensor.isfinite().all():
            raise CheckpointError(f"{key!r} holds NaN or infinite values", path=self.path / file[key].shard)
        return tensor

    def change(
        self, tensor: str, scale: float, rows: Sequence[int] | None = None, device: str = "cpu"
    ) -> Change:
        """What is added to one of the tensors in `parts`, times `scale`."""
        return change(self.parts[tensor], self.read, scale, rows, device)

    @cached_property
    def digest(self) -> str:
        """The identity of the adapter: its tensors, their scaling, and its rotary settings."""
        tables = [
            tensor_table(file.tensors, {name: tensor_digest(file, name) for name in file.tensors})
            for file in self.files
        ]
        scaling = {
            name: part.scaling for name, part in self.parts.items() if not isinstance(part, Replacement)
        }
        rope = settings.to_json(self.rope) if self.rope else None
        return json_digest({"tensors": tables, "scaling": scaling, "rope": rope})


def open_adapter(path: Path) -> Adapter:
    """Open and check a PEFT LoRA folder; no factor is read.

    A folder that is none raises InputError, one that is malformed or of another kind CheckpointError.
    """
    if not (path / peft.ADAPTER_CONFIG).is_file():
        raise InputError(
            "is not a PEFT adapter",
            path=path,
            expected=f"{peft.ADAPTER_CONFIG} and {peft.ADAPTER_WEIGHTS} in it",
        )
    config = read_config(path)
    sidecar = read_sidecar(path, "adapter") if (path / SIDECAR).is_file() else None
    files = [open_tensors(path / peft.ADAPTER_WEIGHTS)]
    parts = parts_of(files[0], path / peft.ADAPTER_WEIGHTS, config)
    if sidecar is not None:
        _check_sidecar(path, sidecar)
        if sidecar.get("dense"):
            files.append(open_tensors(path / peft.DENSE_DELTAS))
            if set(files[1].tensors) != set(sidecar["dense"]):
                raise CheckpointError(
                    "holds other tensors than its sidecar says",
                    path=path / peft.DENSE_DELTAS,
                    received=", ".join(sorted(set(files[1].tensors) ^ set(sidecar["dense"])))[:80],
                    remedy="extract it again",
                )
            parts |= {name: Addition(info.shape, name, 1.0) for name, info in files[1].tensors.items()}
    elif (path / peft.DENSE_DELTAS).exists():
        raise CheckpointError(
            "lies beside no sidecar",
            path=path / peft.DENSE_DELTAS,
            expected=SIDECAR,
            remedy="extract it again",
        )
    if not all(math.isfinite(part.scaling) for part in parts.values() if not isinstance(part, Replacement)):
        raise CheckpointError("has a scaling that is not finite", path=path / peft.ADAPTER_CONFIG)
    return Adapter(path, config, sidecar, tuple(files), parts)


def _check_sidecar(path: Path, sidecar: dict[str, Any]) -> None:
    needed = {"architecture": dict, "base": dict, "donor": dict, "max_length": int, "rank": int, "rope": dict,
              "selection": dict, "modules": dict, "dense": dict}  # fmt: skip
    missing = [key for key, form in needed.items() if not isinstance(sidecar.get(key), form)]
    if missing:
        raise CheckpointError(f"lacks {', '.join(missing)}", path=path / SIDECAR, remedy="extract it again")
    for side in ("base", "donor"):
        settings.from_json(sidecar["rope"].get(side))
        if not {"name", "digest"} <= set(sidecar[side]):
            raise CheckpointError(
                f"does not say who its {side} is", path=path / SIDECAR, expected="name and digest"
            )
