"""Adapter folders from the recorded steps of an extraction: factors, dense deltas and the sidecar."""

import math
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import pad

from contextgraft.adapter.analysis.card import write_adapter_card
from contextgraft.adapter.extract.model_pair import ModelPair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.extract.tokenizer_record import tokenizer_record
from contextgraft.adapter.gguf.llama_cpp import GGUF_FILE
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.lora.parameter_names import flat_factor, wrapped_modules
from contextgraft.adapter.lora.reader_limits import converts_experts
from contextgraft.checkpoint.atomic import write_json
from contextgraft.checkpoint.model_folder import open_tensors
from contextgraft.checkpoint.reader import DTYPES, read_tensor
from contextgraft.checkpoint.resume import ResumeLog
from contextgraft.checkpoint.writer import Spec, order, write_tensors
from contextgraft.errors import MismatchError
from contextgraft.formats import peft
from contextgraft.formats.architecture import architecture
from contextgraft.formats.hub_source import peft_base
from contextgraft.formats.model.own_files import copy_own_file
from contextgraft.formats.model.runtime_names import peft_names, renamed_in_layers
from contextgraft.formats.model.vocabulary import TOKENIZER
from contextgraft.formats.sidecar import BASE_ROWS, SIDECAR, identity, sidecar
from contextgraft.formats.tensor_names import BY_TOKEN, TensorRole, stored_transposed

UNDO = (
    "merge this adapter into the graft with the negated scale, then restore `rope` from its manifest; "
    "this is exact only to the rounding of the stored dtype: keep the target"
)
Records = Mapping[str, Mapping[str, Any]]


def assemble(
    models: ModelPair, specs: Sequence[RankSpec], log: ResumeLog, products: str, gguf: bool
) -> dict[str, dict[str, Any]]:
    """Write the folder of every rank spec from the recorded steps; returns sidecars by the folder's name.

    `products` is the arithmetic by which the factors were found, which the sidecars record.
    """
    records = {name: log.get(name) or {} for names in models.names_by_role.values() for name in names}
    factorised = {name: records[name] for name in models.factorised}
    if not any("squares" in record for record in factorised.values()):
        raise MismatchError(
            "has the same linear weights as the base: there is nothing to extract",
            path=models.donor.path,
            received=models.base.path,
        )
    common = _common(models, records) | {"products": products}
    names = peft_names(models.base.config, models.base.tensors)
    modules = {name: peft.module_of(runtime) for name, runtime in names.items()}
    modules |= {name: name for name in models.parameters}
    renamed = renamed_in_layers(models.base.config, names)
    writer = _FolderWriter(models, log, factorised, common, modules, renamed)
    sidecars = {spec.name: writer.write(spec) for spec in specs}
    for name in sidecars:
        adapter = open_adapter(log.work / name)
        if gguf:
            from contextgraft.adapter.gguf.write_gguf import write_gguf

            write_gguf(adapter, models.base, adapter.path / GGUF_FILE)
        write_adapter_card(adapter)
    return sidecars


@dataclass(frozen=True)
class _FolderWriter:
    """What the adapters of all ranks share; `modules` are the names of the base's modules in PEFT.

    Those of parameters are their own. `renamed` are tensors whose modules have other names in memory.
    """

    models: ModelPair
    log: ResumeLog
    factorised: Records
    common: dict[str, Any]
    modules: Mapping[str, str]
    renamed: Collection[str]

    def write(self, spec: RankSpec) -> dict[str, Any]:
        """Write the adapter of one rank spec and return its sidecar."""
        models, folder = self.models, self.log.work / spec.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        ranks = {
            name: min(
                spec.rank_for(record["squares"], record["delta_norm"] ** 2), *models.base[name].shape[-2:]
            )
            for name, record in self.factorised.items()
            if "squares" in record
        }
        config = self._write_factors(folder, ranks)
        _write_dense(folder, models, self.log, self.common["dense"])
        write_json(folder / peft.ADAPTER_CONFIG, config, durable=False)
        by_token = any(models.names_by_role[kind] for kind in BY_TOKEN)
        if by_token and (models.base.path / TOKENIZER).exists():
            copy_own_file(models.base.path, TOKENIZER, folder / TOKENIZER)
        content = sidecar(
            "adapter",
            rank=config["r"],
            asked=spec.requested,
            **self.common,
            **_energies(self.factorised, ranks),
        )
        write_json(folder / SIDECAR, content, durable=False)
        return content

    def _write_factors(self, folder: Path, ranks: Mapping[str, int]) -> dict[str, Any]:
        """Write the factors of these ranks; returns adapter_config.json."""
        modules, base = self.modules, self.common["base"]
        padded = {modules[name]: rank for name, rank in ranks.items()}
        parameters = {name: parameter for name, parameter in self.models.parameters.items() if name in ranks}
        weights = {name for name in parameters if name.endswith(".weight")}
        renamed = {modules[name] for name in self.renamed if name in ranks}
        alike = peft.of_one_rank(padded, modules.values()) | weights | renamed
        padded |= dict.fromkeys(alike, max(ranks.values()))
        owners = {**modules, **wrapped_modules(parameters.values())}
        factors = [_Factors(name, owners[name], rank, padded[modules[name]]) for name, rank in ranks.items()]
        _write_factors(folder, self.models, factors, self.log)
        config = peft.config(
            padded, set(modules.values()), base["name"], parameters,
            converts_experts=converts_experts(self.common["architecture"]),
        ) | peft_base(base)  # fmt: skip
        config["fan_in_fan_out"] = any(stored_transposed(name, self.models.base.config) for name in ranks)
        inputs = self.models.names_by_role[TensorRole.INPUT]
        if inputs:
            config["ensure_weight_tying"] = self.models.tied  # else PEFT adapts the input embeddings alone
        if self.models.tied and any(name in ranks for name in inputs):
            config["target_modules"] = peft.with_tied_head(config["target_modules"])
        return config


def _common(models: ModelPair, records: Records) -> dict[str, Any]:
    """The content that the sidecars of all ranks share."""
    base = identity(models.base, {name: record["base_digest"] for name, record in records.items()})
    donor = identity(models.donor, {name: record["donor_digest"] for name, record in records.items()})
    changed = {name: record for name, record in records.items() if record["delta_norm"]}
    facts = {name: {key: changed[name][key] for key in ("delta_norm", "relative_delta")} for name in changed}
    for name in set(facts).intersection(models.longer):
        facts[name][BASE_ROWS] = models.base[name].rows
    return {
        "base": base,
        "donor": donor,
        "architecture": architecture(models.base.config),
        "selection": asdict(models.selection),
        **models.context_record(),
        **tokenizer_record(models),
        "dense": {name: facts[name] for name in models.names_by_role[TensorRole.DENSE] if name in facts},
        "ignored": {name: facts[name] for name in models.names_by_role[TensorRole.IGNORED] if name in facts}
        | dict.fromkeys(models.unpaired, "not in both models, or of another shape"),
        "undo": UNDO,
    }


def _energies(factorised: Records, ranks: Mapping[str, int]) -> dict[str, Any]:
    """Energy and error of every module, and of all, at these ranks; the deltas' norms are exact."""
    modules = {}
    captured = whole = 0.0
    for name, record in factorised.items():
        total = record["delta_norm"] ** 2
        part = min(math.fsum(record.get("squares", [])[: ranks.get(name, 0)]), total)
        energy = part / total if total else 1.0
        modules[peft.module_of(name)] = {
            "rank": ranks.get(name, 0),
            "energy": energy,
            "error": math.sqrt(1 - energy),
            "excess": record.get("excess", 1.0),
            "delta_norm": record["delta_norm"],
            "relative_delta": record["relative_delta"],
        }
        captured, whole = captured + part, whole + total
    energy = captured / whole
    return {
        "modules": modules,
        "energy": energy,
        "error": math.sqrt(1 - energy),
        "delta_norm": math.sqrt(whole),
    }


@dataclass(frozen=True)
class _Factors:
    """The factors of one tensor: its module in PEFT, their rank, and the rank they are padded to."""

    tensor: str
    module: str
    rank: int
    padded: int


def _write_factors(folder: Path, models: ModelPair, factors: Sequence[_Factors], log: ResumeLog) -> None:
    """adapter_model.safetensors of one rank spec, padded with zeros, a module at a time."""
    specs: dict[str, Spec] = {}
    origin: dict[str, tuple[_Factors, str]] = {}
    inputs = models.names_by_role[TensorRole.INPUT]
    for item in factors:
        shape, dtype = models.base[item.tensor].shape, DTYPES[models.donor[item.tensor].dtype]
        experts, (outputs, columns) = math.prod(shape[:-2]), shape[-2:]
        if item.tensor in inputs or models.is_transposed(item.tensor):
            outputs, columns = columns, outputs
        first, second = peft.keys(item.module, item.tensor in inputs)
        specs[first] = (dtype, (item.padded * experts, columns))
        specs[second] = (dtype, (outputs, item.padded * experts))
        origin |= {first: (item, "A"), second: (item, "B")}

    def slices() -> Iterator[torch.Tensor]:
        for key in order(specs):
            item, factor = origin[key]
            swapped = item.tensor in inputs or models.is_transposed(item.tensor)
            kept = _padded(log, item, {"A": "B", "B": "A"}[factor] if swapped else factor)
            kept = kept.transpose(-1, -2) if swapped else kept
            yield flat_factor(kept, factor) if kept.dim() > 2 else kept

    write_tensors(folder / peft.ADAPTER_WEIGHTS, specs, slices(), durable=False)


def _padded(log: ResumeLog, item: _Factors, factor: str) -> torch.Tensor:
    """The recorded factor, A [.., R, N] or B [.., M, R], at its rank and with zeros up to the padded one."""
    whole = read_tensor(open_tensors(log.file(item.tensor, ".safetensors")), factor)
    missing = item.padded - item.rank
    if factor == "A":
        return pad(whole[..., : item.rank, :], (0, 0, 0, missing))
    return pad(whole[..., : item.rank], (0, missing))


def _write_dense(folder: Path, models: ModelPair, log: ResumeLog, changed: Mapping[str, Any]) -> None:
    if not changed:
        return
    specs: dict[str, Spec] = {name: (torch.float32, models.donor[name].shape) for name in changed}
    files = (open_tensors(log.file(name, ".safetensors")) for name in order(specs))
    tensors = (read_tensor(file, "delta") for file in files)
    write_tensors(folder / peft.DENSE_DELTAS, specs, tensors, durable=False)
