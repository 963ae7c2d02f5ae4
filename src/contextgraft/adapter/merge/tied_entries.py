"""An adapter's entries for tied embeddings: those of the input, and of the output layer that shares them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.entries import AdapterEntry, TokenRowsEntry
from contextgraft.adapter.lora.low_rank import LowRankEntry
from contextgraft.errors import MismatchError
from contextgraft.formats.peft import module_of

if TYPE_CHECKING:
    from contextgraft.adapter.lora.deltas import Read, TensorDelta


@dataclass(frozen=True)
class RowsWithFactorsEntry(AdapterEntry):
    """Rows of single tokens that replace the target's own, and factors that are added to all rows."""

    rows: TokenRowsEntry
    factors: LowRankEntry
    replaces: ClassVar[bool] = True

    @override
    def covers(self, row: int) -> bool:
        return self.rows.covers(row)

    @override
    def load(self, read: "Read", scale: float, rows: Sequence[int] | None) -> "TensorDelta":
        from contextgraft.adapter.lora.deltas import RebasedDelta  # noqa: PLC0415 - torch, if needed

        return RebasedDelta(self.rows.load(read, scale, rows), self.factors.load(read, scale, rows))


def with_shared_ends(
    adapter: Adapter, entries: Mapping[str, AdapterEntry], embedding: str, head: str
) -> dict[str, AdapterEntry]:
    """The entries of a target whose output layer is its input embeddings.

    PEFT adapts the input embeddings alone, unless ensure_weight_tying is set; rows of single tokens it shares
    always, also under factors of the output layer. `contextgraft extract` carries what base and donor have
    tied. Raises MismatchError for DoRA factors of the output layer under trained tokens.
    """
    if embedding not in entries:
        return dict(entries)
    shared, own = entries[embedding], entries.get(head)
    if isinstance(shared, TokenRowsEntry) and type(own) is LowRankEntry:
        if own.magnitude is not None:
            raise MismatchError(
                "DoRA on the output layer cannot be combined with trained tokens of tied embeddings, which "
                "PEFT does not run", path=adapter.path, expected="LoRA factors of the output layer, or none",
                received=f"magnitudes: {own.magnitude}", remedy="train the adapter without use_dora, or "
                "without trainable_token_indices",
            )  # fmt: skip
        return {**entries, head: RowsWithFactorsEntry(own.shape, own.scaling, shared, own)}
    if adapter.ties_embeddings:
        return {**entries, head: _with_scaling_of(adapter, head, shared)}
    return {**entries, head: shared} if isinstance(shared, TokenRowsEntry) and own is None else dict(entries)


def _with_scaling_of(adapter: Adapter, head: str, shared: AdapterEntry) -> AdapterEntry:
    """The input's factors with the output layer's alpha and rank of the config, which PEFT does not tie."""
    if not isinstance(shared, LowRankEntry):
        return shared
    return replace(shared, scaling=adapter.config.scaling(module_of(head)))
