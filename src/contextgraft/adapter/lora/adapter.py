"""An adapter folder: any PEFT LoRA, with or without the sidecar that `extract` writes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contextgraft.adapter.full_weights import ignored_weights
from contextgraft.adapter.lora.config import LoraConfig, read_config
from contextgraft.adapter.lora.entries import AdapterEntry, AdditiveEntry, TokenRowsEntry
from contextgraft.adapter.lora.files.folder import check_pickles, check_sidecar, check_weights
from contextgraft.adapter.lora.kinds import KINDS
from contextgraft.adapter.lora.low_rank import LowRankEntry, RebasedEntry
from contextgraft.adapter.peft_keys import renamed_keys
from contextgraft.checkpoint.digest import file_digest, json_digest, tensor_digest, tensor_table
from contextgraft.checkpoint.input_files import InputFiles, files_of
from contextgraft.checkpoint.model_folder import folders_with, open_tensors
from contextgraft.checkpoint.safetensors_header import TensorFile
from contextgraft.errors import CheckpointError, InputError, first_names
from contextgraft.formats import peft
from contextgraft.formats.model.vocabulary import TOKENIZER, vocabulary_at
from contextgraft.formats.sidecar import SIDECAR, read_sidecar
from contextgraft.formats.tensor_names import rows_are_tokens
from contextgraft.rope import settings, travelling
from contextgraft.rope.travelling import Setting

if TYPE_CHECKING:
    import torch

    from contextgraft.adapter.compute.arrays import Floats
    from contextgraft.adapter.lora.array_deltas import ArrayDelta
    from contextgraft.adapter.lora.deltas import TensorDelta


@dataclass(frozen=True)
class Adapter:
    """A checked adapter; `entries` are the tensors of a model that it changes.

    `inputs` are its files as they were before the first of them was read.
    `sidecar` is None for adapters that other programs wrote. `ignored` are modules whose factors have no
    effect, because the config does not select them; `ignored_weights` are stored weights without effect.
    `renamed` are keys of the weights file that PEFT does not load, with those that it expects.
    """

    path: Path
    config: LoraConfig
    sidecar: dict[str, Any] | None
    files: tuple[TensorFile, ...]
    entries: dict[str, AdapterEntry]
    inputs: InputFiles = field(default_factory=InputFiles, compare=False, repr=False)
    ignored: tuple[str, ...] = ()
    ignored_weights: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def rope(self) -> settings.RopeSettings | None:
        """The RoPE settings that the weights were trained with, if they are recorded."""
        return settings.from_json(self.sidecar["rope"]["donor"]) if self.sidecar else None

    @property
    def attention(self) -> dict[str, Setting] | None:
        """The position and attention settings that the donor changed; None where none were recorded."""
        record = (self.sidecar or {}).get("attention")
        return None if record is None else travelling.from_json(record["changed"])

    @property
    def not_carried(self) -> dict[str, Setting]:
        """Other settings of the forward pass that the donor changed; no adapter carries them."""
        record = (self.sidecar or {}).get("attention") or {}
        return travelling.from_json(record.get("not_carried", {}))

    @property
    def base_attention(self) -> dict[str, Any] | None:
        """The position and attention settings in the base's config; None where they were not recorded."""
        record = (self.sidecar or {}).get("attention") or {}
        return record.get("base")

    @property
    def rank(self) -> int:
        """The largest rank of any module."""
        modules = [peft.module_of(name) for name in self.factors]
        return max([self.config.rank(module) for module in modules], default=0)

    @property
    def factors(self) -> dict[str, LowRankEntry]:
        """The entries that are low-rank factors."""
        return {name: entry for name, entry in self.entries.items() if isinstance(entry, LowRankEntry)}

    @property
    def replaced(self) -> tuple[str, ...]:
        """Tensors that the adapter would overwrite."""
        return tuple(sorted(name for name, entry in self.entries.items() if entry.replaces))

    @property
    def origin(self) -> dict[str, Any]:
        """Identities of base and donor, as far as they are recorded."""
        if self.sidecar:
            return {key: self.sidecar[key] for key in ("base", "donor")}
        unknown = {"digest": None, "source": None, "revision": None}
        base = {"name": self.config.base_model_name_or_path, **unknown}
        return {"base": base, "donor": {"name": self.path.resolve().name, **unknown}}

    @cached_property
    def vocabulary(self) -> dict[str, int] | None:
        """Token -> row of its embeddings, if a tokenizer is next to the weights."""
        path = self.path / TOKENIZER
        return vocabulary_at(path) if path.exists() else None

    def file_of(self, key: str) -> TensorFile:
        """The file that holds a tensor."""
        return next(file for file in self.files if key in file.tensors)

    def read(self, key: str) -> "torch.Tensor":
        """A tensor by its key; values that are not finite raise CheckpointError."""
        from contextgraft.checkpoint.reader import read_tensor

        tensor = read_tensor(self.file_of(key), key)
        if not tensor.isfinite().all():
            raise self._not_finite(key)
        return tensor

    def delta(
        self, tensor: str, scale: float, rows: Sequence[int] | None = None, device: str = "cpu"
    ) -> "TensorDelta":
        """The delta of one of the tensors in `entries`, times `scale`; `rows` as in `AdapterEntry.load`."""
        return self.load(self.entries[tensor], scale, rows, device)

    def load(
        self, entry: AdapterEntry, scale: float, rows: Sequence[int] | None = None, device: str = "cpu"
    ) -> "TensorDelta":
        """The delta of one entry, times `scale`."""
        return entry.load(lambda key: self.read(key).to(device).float(), scale, rows)

    def load_arrays(
        self, entry: AdapterEntry, scale: float, rows: Sequence[int] | None = None
    ) -> "ArrayDelta":
        """As `load`, by numpy; for entries that have it."""
        return entry.load_arrays(self.read_floats, scale, rows)

    def read_floats(self, key: str) -> "Floats":
        """As `read`, in float32 and without PyTorch."""
        import numpy as np

        from contextgraft.adapter.compute.arrays import read_floats

        array = read_floats(self.file_of(key), key)
        if not np.isfinite(array).all():
            raise self._not_finite(key)
        return array

    def _not_finite(self, key: str) -> CheckpointError:
        path = self.path / self.file_of(key)[key].shard
        return CheckpointError(f"{key!r} holds NaN or infinite values", path=path)

    @cached_property
    def digest(self) -> str:
        """The identity of the adapter: its tensors, their scaling, its rotary and attention settings."""
        return json_digest({**self._without_embeddings, **self._embeddings})

    @cached_property
    def earlier_digest(self) -> str | None:
        """The digest that earlier versions recorded of an adapter with embeddings; None where it is the same.

        It does not cover how embeddings are merged: the tokenizer, tied ends, and the scaling of modules that
        are stored in full.
        """
        return json_digest(self._without_embeddings) if self._embeddings else None

    def is_recorded_as(self, digest: object) -> bool:
        """Whether a record of this or an earlier version is of this adapter."""
        return digest in {self.digest, self.earlier_digest} - {None}

    @cached_property
    def _without_embeddings(self) -> dict[str, Any]:
        """What the digest covers for every adapter."""
        tables = [
            tensor_table(file.tensors, {name: tensor_digest(file, name) for name in file.tensors})
            for file in self.files
        ]
        scaling = {name: entry.scaling for name, entry in self.entries.items() if not entry.replaces}
        rope = settings.to_json(self.rope) if self.rope else None
        attention = {"attention": travelling.to_json(self.attention)} if self.attention else {}
        tokens = {name: e.indices for name, e in self.entries.items() if isinstance(e, TokenRowsEntry)}
        rows = {"token_rows": tokens} if tokens else {}
        return {"tensors": tables, "scaling": scaling, "rope": rope, **attention, **rows}

    @property
    def _embeddings(self) -> dict[str, Any]:
        """What else decides how embeddings are merged, for the digest; only what is not the default."""
        if not any(map(rows_are_tokens, self.entries)):
            return {}
        own = self.sidecar is not None
        stored = {name: e.scaling for name, e in self.entries.items() if isinstance(e, RebasedEntry)}
        tokenizer = self.path / TOKENIZER
        return (
            ({"ties_embeddings": self.ties_embeddings} if self.ties_embeddings is not own else {})
            | ({"scaling_of_stored": stored} if stored else {})
            | ({"tokenizer": file_digest(tokenizer)} if not own and tokenizer.is_file() else {})
        )

    @property
    def ties_embeddings(self) -> bool:
        """Whether a change of tied embeddings is meant for both ends: a donor's is, PEFT's on request."""
        ties = self.config.ties_embeddings
        return self.sidecar is not None if ties is None else ties


def open_adapter(path: Path) -> Adapter:
    """Open and check a PEFT LoRA folder; no factor is read.

    Raises InputError if it is not an adapter, CheckpointError if it is malformed or of an unsupported kind.
    """
    if not (path / peft.ADAPTER_CONFIG).is_file():
        inside = folders_with(path, peft.ADAPTER_CONFIG)
        raise InputError(
            "is not a PEFT adapter", path=path,
            expected=f"{peft.ADAPTER_CONFIG} and {peft.ADAPTER_WEIGHTS} in it",
            received=None if path.is_dir() else "a file" if path.exists() else "nothing at this path",
            remedy=f"choose one of its folders that hold one: {first_names(inside, 5)}" if inside else None,
        )  # fmt: skip
    inputs = files_of(path)
    config = read_config(path, {name: kind.config for name, kind in KINDS.items()})
    sidecar = read_sidecar(path, "adapter") if (path / SIDECAR).is_file() else None
    check_pickles(path)
    check_weights(path)
    files = [open_tensors(path / peft.ADAPTER_WEIGHTS)]
    ignored = config.ignored_factors(files[0].tensors)
    unloaded = ignored_weights(config, files[0].without(ignored).tensors)
    weights = files[0].without({**ignored, **unloaded})
    entries = KINDS[config.peft_type].entries(weights, path / peft.ADAPTER_WEIGHTS, config)
    if sidecar is not None:
        check_sidecar(path, sidecar)
        if sidecar.get("dense"):
            files.append(open_tensors(path / peft.DENSE_DELTAS))
            if set(files[1].tensors) != set(sidecar["dense"]):
                raise CheckpointError(
                    "has other tensors than its sidecar lists",
                    path=path / peft.DENSE_DELTAS,
                    received=", ".join(sorted(set(files[1].tensors) ^ set(sidecar["dense"])))[:80],
                    remedy="extract it again",
                )
            entries |= {name: AdditiveEntry(info.shape, 1.0, name) for name, info in files[1].tensors.items()}
    elif (path / peft.DENSE_DELTAS).exists():
        raise CheckpointError(
            f"found without {SIDECAR}",
            path=path / peft.DENSE_DELTAS,
            remedy="extract the adapter again",
        )
    if not all(math.isfinite(entry.scaling) for entry in entries.values()):
        raise CheckpointError("has a scaling that is not finite", path=path / peft.ADAPTER_CONFIG)
    modules, others = tuple(dict.fromkeys(ignored.values())), tuple(unloaded.values())
    renamed = renamed_keys(weights.tensors)
    return Adapter(path, config, sidecar, tuple(files), entries, inputs, modules, others, renamed)
