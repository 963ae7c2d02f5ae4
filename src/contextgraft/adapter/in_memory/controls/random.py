"""The control of the delta's direction: the adapter's singular values in random directions."""

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING

from typing_extensions import override

from contextgraft.adapter.in_memory.controls.base import ControlInputs
from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.entries import AdapterEntry, AdditiveEntry
from contextgraft.adapter.lora.low_rank import LowRankEntry, StackedEntry
from contextgraft.adapter.merge.plan import MergePlan
from contextgraft.checkpoint.digest import json_digest
from contextgraft.errors import InputError

if TYPE_CHECKING:
    import torch

    from contextgraft.adapter.compute.arrays import Floats


def random(inputs: ControlInputs) -> MergePlan:
    """The merge of the adapter of the largest rank, with every delta in a random direction."""
    return inputs.plan(random_adapter(inputs.largest), 1.0)


def random_adapter(adapter: Adapter) -> "RandomAdapter":
    """The same adapter with other directions; InputError if it does more than add deltas (DoRA)."""
    fixed = [name for name, entry in adapter.entries.items() if not _adds_a_delta(entry)]
    if fixed:
        raise InputError(
            "cannot be made random: it does more than add deltas", path=adapter.path,
            expected="LoRA factors and stored deltas", received=fixed[0], remedy="leave the control out",
        )  # fmt: skip
    values = {item.name: getattr(adapter, item.name) for item in fields(adapter)}
    return RandomAdapter(**values, original=adapter)


@dataclass(frozen=True)
class RandomAdapter(Adapter):
    """An adapter each of whose deltas has the singular values of the original's in random directions.

    They depend on the original's digest and the tensor's key: the same adapter has the same control.
    """

    original: Adapter = field(kw_only=True)

    @override
    def read(self, key: str) -> "torch.Tensor":
        import torch

        return torch.from_numpy(self._turned(key, self.original.read(key).float().numpy()))

    @override
    def read_floats(self, key: str) -> "Floats":
        return self._turned(key, self.original.read_floats(key))

    @cached_property
    @override
    def digest(self) -> str:
        return json_digest({"random directions of": self.original.digest})

    @cached_property
    def _experts(self) -> dict[str, int]:
        """The number of experts by key of lora_A and lora_B."""
        return {
            key: entry.experts if isinstance(entry, StackedEntry) else 1
            for entry in self.factors.values()
            for key in (entry.key_A, entry.key_B)
        }

    def _turned(self, key: str, values: "Floats") -> "Floats":
        from contextgraft.adapter.compute.random_directions import generator_of, random_like, turned_by_expert

        generator = generator_of(f"{self.original.digest} {key}")
        if key not in self._experts:
            return random_like(values, generator)
        experts = self._experts[key]
        if key in {entry.key_B for entry in self.factors.values()}:  # [M, R x E]: a rank's experts adjoin
            return turned_by_expert(values, [slice(e, None, experts) for e in range(experts)], generator)
        rank = len(values) // experts  # [R x E, N], expert by expert
        rows = [slice(e * rank, (e + 1) * rank) for e in range(experts)]
        return turned_by_expert(values.T, rows, generator).T.copy()


def _adds_a_delta(entry: AdapterEntry) -> bool:
    return isinstance(entry, LowRankEntry | AdditiveEntry) and not entry.needs_model
