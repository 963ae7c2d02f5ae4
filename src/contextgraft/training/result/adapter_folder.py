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
from contextgraft.formats.model_card.cards import card_of
from contextgraft.formats.model_card.licence import CARD
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
    """Norms of what training did to one tensor, as stored, and of the difference from its factors."""

    delta_norm: float
    base_norm: float
    rounding: float = 0.0

    @property
    def relative(self) -> float:
        return self.delta_norm / self.base_norm if self.base_norm else 0.0


def write_adapter_folder(
    work: Path, base: ModelFolder, trained: Mapping[str, torch.Tensor], lora: Lora
) -> None:
    """Write `adapter/` into the folder of a finished model; one weight at a time is in memory.

    Its factors are in one file, as PEFT writes them.
    """
    donor, folder = open_model(work), work / ADAPTER_FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed here
    folder.mkdir()
    modules = {
        peft.module_of(name): name
        for name, info in base.tensors.items()
        if parameter_group(name, len(info.shape)) == "linear"
    }
    specs: dict[str, Spec] = {}
    factors: dict[str, str] = {}
    for module, name in modules.items():
        rows, columns = base[name].shape
        shapes = (lora.rank, columns), (rows, lora.rank)
        keys = peft.keys(module)
        specs |= {key: (torch.float32, shape) for key, shape in zip(keys, shapes, strict=True)}
        factors |= dict(zip(keys, factor_names(module), strict=True))
    values = (trained[factors[key]].float() for key in order(specs))
    write_tensors(folder / peft.ADAPTER_WEIGHTS, specs, values)
    scale = lora.alpha / lora.rank
    changes = {
        module: _change(base, donor, name, *(trained[key] for key in factor_names(module)), scale=scale)
        for module, name in modules.items()
    }
    base_record = identity(base)
    config = peft.config(dict.fromkeys(modules, lora.rank), _all_modules(base), base_record["name"])
    write_json(folder / peft.ADAPTER_CONFIG, config | {"lora_alpha": lora.alpha} | peft_base(base_record))
    record = sidecar(
        "adapter",
        rank=lora.rank,
        asked={"rank": lora.rank},
        base=base_record,
        donor=identity(donor),
        architecture=architecture(base.config),
        selection=EVERYTHING,
        trained=True,
        **_context(base, donor),
        dense=_write_dense(folder, base, donor, trained),
        ignored=_ignored(base, donor, trained),
        **_energies(changes, lora.rank),
    )
    write_json(folder / SIDECAR, record)
    (folder / CARD).write_text(card_of(record), encoding="utf-8")


def _all_modules(base: ModelFolder) -> set[str]:
    return {peft.module_of(name) for name in base.tensors if name.endswith(".weight")}


def _context(base: ModelFolder, donor: ModelFolder) -> dict[str, Any]:
    """RoPE of both models; training changes no other setting of the forward pass."""
    read = {
        side: settings.read(folder.config, folder.path) for side, folder in (("base", base), ("donor", donor))
    }
    return {
        "rope": {side: settings.to_record(value) for side, value in read.items()},
        "attention": {"base": travelling.stated_values(base.config), "changed": {}, "not_carried": {}},
        "max_length": read["donor"].context,
    }


def _change(
    base: ModelFolder, donor: ModelFolder, name: str, *factors: torch.Tensor, scale: float
) -> _Change:
    """The change of a tensor as stored, and the norm of its difference from `scale` * B @ A."""
    before = read_tensor(base, name).double()
    delta = read_tensor(donor, name).double() - before
    norm, base_norm = float(delta.norm()), float(before.norm())
    if not factors:
        return _Change(norm, base_norm)
    a, b = (factor.double() for factor in factors)
    return _Change(norm, base_norm, float((delta - scale * b @ a).norm()))


def _energies(changes: Mapping[str, _Change], rank: int) -> dict[str, Any]:
    """Norms of every module and of all; the factors are the whole change, so they have all of its energy.

    The merged weights are rounded. That is not an error of the factors, and can exceed a small change: it is
    recorded apart, as a norm.
    """
    exact = {"energy": 1.0, "error": 0.0}
    modules = {
        module: {
            "rank": rank,
            **exact,
            "excess": 1.0,
            "delta_norm": change.delta_norm,
            "relative_delta": change.relative,
            "rounding": change.rounding,
        }
        for module, change in changes.items()
    }
    totals = {
        key: math.hypot(*(module[key] for module in modules.values())) for key in ("delta_norm", "rounding")
    }
    return {"modules": modules, **exact, **totals}


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
