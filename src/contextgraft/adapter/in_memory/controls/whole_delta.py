"""The controls of full rank: a donor minus the base, added as it is, without factors."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from contextgraft.adapter.extract.model_pair import ModelPair, open_pair
from contextgraft.adapter.extract.rank_spec import TensorSelection
from contextgraft.adapter.in_memory.controls.base import ControlInputs
from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.entries import AdapterEntry, AdditiveEntry
from contextgraft.adapter.merge.plan import MergePlan
from contextgraft.checkpoint.digest import json_digest
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import InputError, MismatchError
from contextgraft.formats.sidecar import SIDECAR
from contextgraft.formats.tensor_names import FACTORISED, TensorRole
from contextgraft.rope import settings

if TYPE_CHECKING:
    import torch

    from contextgraft.adapter.compute.arrays import Floats

CARRIED = (*FACTORISED, TensorRole.DENSE)


def whole_delta(inputs: ControlInputs) -> MergePlan:
    """The merge of donor minus base at full rank: what an adapter without truncation would do."""
    origin = inputs.first.origin["donor"]
    digests = {path: inputs.digests.of(path) for path in inputs.donors}
    donor = next((path for path, digest in digests.items() if digest == origin["digest"]), None)
    if donor is None:
        raise InputError(
            "was extracted from a donor that was not given, and whole_delta needs its folder",
            path=inputs.first.path, expected=f"{origin['name']}, digest {origin['digest']}",
            received=", ".join(f"{path}, digest {digest}" for path, digest in digests.items()) or "none",
            remedy="pass the donor's folder with --donor",
        )  # fmt: skip
    return _plan(inputs, donor, str(origin["digest"]))


def short_donor(inputs: ControlInputs) -> MergePlan:
    """The same with a second donor, trained as long with the same theta but never on a long text.

    RoPE and attention settings are those of the first donor. MismatchError for the base, for the donor
    itself, and for a model with another theta or type of RoPE, whose weights fit other positions.
    """
    if inputs.short_donor is None:
        raise InputError(
            "short_donor needs a second donor, trained on short texts only",
            path=inputs.target, remedy="pass its folder with --short-donor",
        )  # fmt: skip
    digest = inputs.digests.of(inputs.short_donor)
    _check_second_donor(inputs, inputs.short_donor, digest)
    return _plan(inputs, inputs.short_donor, digest)


def _check_second_donor(inputs: ControlInputs, folder: Path, digest: str) -> None:
    origin = inputs.first.origin
    for side in ("base", "donor"):
        if digest == origin[side]["digest"]:
            raise MismatchError(
                f"is the {side} of the adapter {inputs.first.path}", path=folder, received=digest,
                expected="a second donor, trained on short texts only",
                remedy="pass the folder of that model with --short-donor",
            )  # fmt: skip
    own, donors = settings.read(open_model(folder).config, folder), inputs.first.rope
    if donors is not None and (own.theta, own.rope_type) != (donors.theta, donors.rope_type):
        raise MismatchError(
            "has other RoPE settings than the donor, which its weights do not fit", path=folder,
            expected=f"theta {donors.theta:.17g}, type {donors.rope_type}",
            received=f"theta {own.theta:.17g}, type {own.rope_type}",
            remedy="train it with the donor's theta: `theta` of the last stage in its recipe",
        )  # fmt: skip


def _plan(inputs: ControlInputs, donor: Path, digest: str) -> MergePlan:
    adapter = difference_adapter(inputs.largest, _base_folder(inputs), donor, digest)
    return inputs.plan(adapter, 1.0)


def _base_folder(inputs: ControlInputs) -> Path:
    """The base, if it is that of the adapters."""
    expected = inputs.first.origin["base"]["digest"]
    if inputs.base is None:
        raise InputError(
            "the base is needed for a control of full rank", path=inputs.target,
            remedy="pass its folder with --base",
        )  # fmt: skip
    received = inputs.digests.of(inputs.base)
    if received != expected:
        raise MismatchError(
            f"is not the base of the adapter {inputs.first.path}", path=inputs.base, expected=expected,
            received=received, remedy="pass the base that the adapter was extracted with",
        )  # fmt: skip
    return inputs.base


def difference_adapter(adapter: Adapter, base: Path, donor: Path, digest: str) -> "DifferenceAdapter":
    """Donor minus base on the tensors that the adapter was selected from; `digest` is the donor's.

    InputError for an adapter without a record of its selection.
    """
    if adapter.sidecar is None:
        raise InputError(
            "has no record of the tensors that it was extracted from", path=adapter.path,
            expected="an adapter that `contextgraft extract` wrote", remedy="leave the control out",
        )  # fmt: skip
    selection = TensorSelection.from_json(adapter.sidecar["selection"], adapter.path / SIDECAR)
    models = open_pair(base, donor, selection)
    values = {item.name: getattr(adapter, item.name) for item in fields(adapter)}
    values["entries"] = dict(_entries(models))
    values["inputs"] = type(adapter.inputs).combined(adapter.inputs, models.base.inputs, models.donor.inputs)
    return DifferenceAdapter(**values, original=adapter, models=models, donor_digest=digest)


@dataclass(frozen=True)
class DifferenceAdapter(Adapter):
    """The difference of two models in the place of an adapter, whose settings and tokenizer it has.

    A tensor is read when its delta is needed: donor minus base in float32, as `extract` computes it.
    """

    original: Adapter = field(kw_only=True)
    models: ModelPair = field(kw_only=True)
    donor_digest: str = field(kw_only=True)

    @override
    def read(self, key: str) -> "torch.Tensor":
        import torch

        return torch.from_numpy(self.read_floats(key))

    @override
    def read_floats(self, key: str) -> "Floats":
        return difference_of(self.models, key).reshape(self.entries[key].shape)

    @cached_property
    @override
    def digest(self) -> str:
        return json_digest({"whole delta like": self.original.digest, "donor": self.donor_digest})


def difference_of(models: ModelPair, name: str) -> "Floats":
    """Donor minus base of one tensor as a matrix, in memory; rows of tokens are matched."""
    import numpy as np

    from contextgraft.adapter.compute.tensor_pool import Buffers
    from contextgraft.adapter.extract.delta import Delta

    delta = Delta(models.base, models.donor, name, Buffers(), 0, models.rows_for(name))
    whole = np.empty((delta.rows, delta.columns), np.float32)
    first = 0
    for tile in delta.tiles():
        whole[first : first + len(tile)] = tile.numpy()
        first += len(tile)
    return whole


def _entries(models: ModelPair) -> Iterator[tuple[str, AdapterEntry]]:
    """An entry for each tensor that differs; those that `extract` stores in full are read to know it."""
    for role in CARRIED:
        for name in models.names_by_role[role]:
            if role is TensorRole.DENSE and not difference_of(models, name).any():
                continue
            side = models.donor if name in models.longer else models.base
            yield name, AdditiveEntry(side[name].shape, 1.0, name)
