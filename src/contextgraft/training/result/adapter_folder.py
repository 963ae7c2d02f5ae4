"""The exact adapter of a run with LoRA: a PEFT folder with a sidecar, inside the folder of the merged model.

Its factors are those that were trained, in float32; the merged model is rounded to the base's dtype. Norms
that were trained too are deltas in full. Embeddings are not carried: the sidecar lists them as ignored.
"""

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from contextgraft.checkpoint.atomic import write_json
from contextgraft.checkpoint.model_folder import ModelFolder, open_model
from contextgraft.checkpoint.reader import read_tensor
from contextgraft.checkpoint.writer import Spec, order, write_tensors
from contextgraft.config.training import Lora
from contextgraft.formats import peft
from contextgraft.formats.architecture import architecture
from contextgraft.formats.hub_source import peft_base
from contextgraft.formats.sidecar import SIDECAR, identity, sidecar
from contextgraft.formats.tensor_names import is_embedding, parameter_group
from contextgraft.rope import settings, travelling
from contextgraft.training.lora import factor_names

ADAPTER_FOLDER = "adapter"
EVERYTHING: dict[str, Any] = {
    "include": "",
    "exclude": None,
    "embeddings": [],
}  # the selection that `extract` has by default


@dataclass(frozen=True)
class _Change:
    """What training did to one tensor, as it is stored: the delta, and how much the factors leave of it."""

    delta_norm: float
    base_norm: float
    error: float = 0.0

    @property
    def relative(self) -> float:
        return self.delta_norm / self.base_norm if self.base_norm else 0.0


def write_adapter_folder(
    work: Path, base: ModelFolder, trained: Mapping[str, torch.Tensor], lora: Lora
) -> None:
    """Write `adapter/` into the folder of a finished model; one weight at a time is in memory."""
    donor, folder = open_model(work), work / ADAPTER_FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed here
    folder.mkdir()
    modules = {
        peft.module_of(name): name
        for name, info in base.tensors.items()
        if parameter_group(name, len(info.shape)) == "linear"
    }
    factors = {
        key: trained[name]
        for module in modules
        for key, name in zip(peft.keys(module), factor_names(module), strict=True)
    }
    specs: dict[str, Spec] = {key: (torch.float32, tuple(factor.shape)) for key, factor in factors.items()}
    write_tensors(folder / peft.ADAPTER_WEIGHTS, specs, (factors[key].float() for key in order(specs)))
    scale = lora.alpha / lora.rank
    changes = {
        module: _change(base, donor, name, *(trained[key] for key in factor_names(module)), scale=scale)
        for module, name in modules.items()
    }
    record = identity(base)
    config = peft.config(dict.fromkeys(modules, lora.rank), _all_modules(base), record["name"])
    write_json(folder / peft.ADAPTER_CONFIG, config | {"lora_alpha": lora.alpha} | peft_base(record))
    write_json(
        folder / SIDECAR,
        sidecar(
            "adapter",
            rank=lora.rank,
            asked={"rank": lora.rank},
            base=record,
            donor=identity(donor),
            architecture=architecture(base.config),
            selection=EVERYTHING,
            trained=True,
            **_context(base, donor),
            dense=_write_dense(folder, base, donor, trained),
            ignored=_ignored(base, donor, trained),
            **_energies(changes, lora.rank),
        ),
    )


def _all_modules(base: ModelFolder) -> set[str]:
    return {peft.module_of(name) for name in base.tensors if name.endswith(".weight")}


def _context(base: ModelFolder, donor: ModelFolder) -> dict[str, Any]:
    """RoPE of both models; training changes no other setting of the forward pass."""
    read = {
        side: settings.read(folder.config, folder.path) for side, folder in (("base", base), ("donor", donor))
    }
    return {
        "rope": {side: settings.to_json(value) for side, value in read.items()},
        "attention": {"base": travelling.stated_values(base.config), "changed": {}, "not_carried": {}},
        "max_length": read["donor"].context,
    }


def _change(
    base: ModelFolder, donor: ModelFolder, name: str, *factors: torch.Tensor, scale: float
) -> _Change:
    """The change of a tensor, and what is left of it after `scale` * B @ A, by rows of the stored weights."""
    before = read_tensor(base, name).double()
    delta = read_tensor(donor, name).double() - before
    norm = float(delta.norm())
    if not factors:
        return _Change(norm, float(before.norm()))
    a, b = (factor.double() for factor in factors)
    left = float((delta - scale * b @ a).norm())
    return _Change(norm, float(before.norm()), left / norm if norm else 0.0)


def _energies(changes: Mapping[str, _Change], rank: int) -> dict[str, Any]:
    """Energy and error of every module and of all: the rest is the rounding of the merged weights."""
    modules = {
        module: {
            "rank": rank,
            "energy": 1 - change.error**2,
            "error": change.error,
            "excess": 1.0,
            "delta_norm": change.delta_norm,
            "relative_delta": change.relative,
        }
        for module, change in changes.items()
    }
    whole = math.hypot(*(change.delta_norm for change in changes.values()))
    left = math.hypot(*(change.delta_norm * change.error for change in changes.values()))
    error = left / whole if whole else 0.0
    return {"modules": modules, "energy": 1 - error**2, "error": error, "delta_norm": whole}


def _facts(base: ModelFolder, donor: ModelFolder, names: Iterator[str]) -> dict[str, Any]:
    changes = {name: _change(base, donor, name, scale=0.0) for name in names}
    return {
        name: {"delta_norm": change.delta_norm, "relative_delta": change.relative}
        for name, change in changes.items()
        if change.delta_norm
    }


def _write_dense(
    folder: Path, base: ModelFolder, donor: ModelFolder, trained: Mapping[str, torch.Tensor]
) -> dict[str, Any]:
    """Write the deltas of other tensors than matrices and embeddings, as stored; returns their record."""
    facts = _facts(base, donor, (name for name in base.tensors if name in trained and not is_embedding(name)))
    specs: dict[str, Spec] = {name: (torch.float32, tuple(base[name].shape)) for name in facts}
    deltas = (read_tensor(donor, name).float() - read_tensor(base, name).float() for name in order(specs))
    if facts:
        write_tensors(folder / peft.DENSE_DELTAS, specs, deltas)
    return facts


def _ignored(base: ModelFolder, donor: ModelFolder, trained: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The record of trained embeddings, which the adapter does not carry."""
    return _facts(base, donor, (name for name in base.tensors if is_embedding(name) and name in trained))
