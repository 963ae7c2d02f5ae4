"""An adapter's entries for tied embeddings: those of the input, and of the output layer that shares them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.entries import AdapterEntry, ReplaceEntry, TokenRowsEntry
from contextgraft.adapter.lora.files.token_rows import missing_rows
from contextgraft.adapter.lora.low_rank import LowRankEntry, RebasedEntry
from contextgraft.adapter.merge.fitted_entries import without_own_ends
from contextgraft.checkpoint.digest import tensor_digest
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.errors import MismatchError
from contextgraft.formats.peft import module_of
from contextgraft.formats.tensor_names import input_embedding, output_embedding

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
    adapter: Adapter, entries: Mapping[str, AdapterEntry], embedding: str, head: str, target: ModelFolder
) -> dict[str, AdapterEntry]:
    """The entries of a target whose output layer is its input embeddings, under both names in `target`.

    PEFT adapts the input embeddings alone, unless ensure_weight_tying is set; rows of single tokens it shares
    always, also under factors of the output layer. `contextgraft extract` carries what base and donor have
    tied. Raises MismatchError for DoRA factors of the output layer under trained tokens, for ends that
    PEFT would tie and that have different factors, or of which only one is saved, and for different weights
    of the tensor that both ends share.
    """
    by_peft = bool(adapter.config.ties_embeddings)
    if adapter.sidecar is None and not by_peft:
        entries = _with_shared_weight(adapter, entries, embedding, head)
        entries = without_own_ends(adapter, entries, (embedding, head), target)
    shared, own = entries.get(embedding), entries.get(head)
    saved = [name for name in (embedding, head) if isinstance(entries.get(name), ReplaceEntry)]
    if by_peft and adapter.sidecar is None and len(saved) == 1 and adapter.config.saves_an_end:
        raise _contradiction(adapter, f"the weight of {saved[0]!r} alone", "the weights of both ends")
    if shared is None and own is not None and by_peft and adapter.sidecar is None:
        _check_one_rank(adapter, embedding, own)
        return {**entries, embedding: _with_scaling_of(adapter, embedding, own)}
    if shared is None:
        return dict(entries)
    if isinstance(shared, TokenRowsEntry) and isinstance(own, TokenRowsEntry):
        _check_shared_rows(adapter, shared, own)
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
        if own is not None and by_peft and not _same_values(adapter, shared, own):
            raise _contradiction(adapter, f"other values for {head!r} than for {embedding!r}")
        return {**entries, head: _with_scaling_of(adapter, head, shared)}
    return {**entries, head: shared} if isinstance(shared, TokenRowsEntry) and own is None else dict(entries)


def with_both_ends(
    adapter: Adapter, entries: Mapping[str, AdapterEntry], embedding: str | None, head: str | None
) -> dict[str, AdapterEntry]:
    """The entries of a target whose output layer is another tensor than its input embeddings.

    What `contextgraft extract` found in tied embeddings is the change of both ends.
    """
    shared = entries.get(embedding or "")
    if shared is None or head is None or head in entries or not _moves_both_ends(adapter):
        return dict(entries)
    return {**entries, head: _with_scaling_of(adapter, head, shared)}


def ends_of_untied(adapter: Adapter, target: ModelFolder) -> Iterator[str]:
    """A warning where the graft of a target with untied embeddings and PEFT may change different ends."""
    embedding, head = input_embedding(adapter.entries), output_embedding(adapter.entries)
    if is_ignored_copy(adapter, adapter.entries, embedding, head):
        yield (
            f"{adapter.path}: its factors of {head} are a copy of those of tied embeddings; those of "
            f"{target.path} are untied, where PEFT changes the input alone: so does the graft"
        )
    if embedding and head is None and output_embedding(target.tensors) and _moves_both_ends(adapter):
        yield (
            f"{target.path}: its output layer is its own, those of base and donor are their embeddings: the "
            "change of these is added to both; PEFT at run time changes the input alone"
        )


def _moves_both_ends(adapter: Adapter) -> bool:
    """Whether `extract` made the adapter from a base and a donor that tie their embeddings."""
    return adapter.sidecar is not None and bool(adapter.config.ensure_weight_tying)


def _with_shared_weight(
    adapter: Adapter, entries: Mapping[str, AdapterEntry], embedding: str, head: str
) -> Mapping[str, AdapterEntry]:
    """The entries with a weight of one end at both, unless modules_to_save give the end a tensor of its own.

    PEFT loads such a weight into the tensor that the ends share, also under factors.
    """
    saved = adapter.config.selection.is_saved
    found = {
        name: entries[name] for name in (embedding, head) if name in entries and not saved(module_of(name))
    }
    keys = {name: key for name, entry in found.items() if (key := _weight_key(entry)) is not None}
    if not keys:
        return entries
    if len({tensor_digest(adapter.file_of(key), key) for key in keys.values()}) > 1:
        raise MismatchError(
            "has different weights for the two ends of the embeddings, which share one tensor in the target",
            path=adapter.path, expected=f"one weight for {embedding!r} and {head!r}", received="two",
            remedy="merge it into a target with untied embeddings, or list both in modules_to_save",
        )  # fmt: skip
    key, shape = next((key, entries[name].shape) for name, key in keys.items())
    made: dict[str, AdapterEntry] = {}
    for name in (embedding, head):
        entry = entries.get(name)
        if entry is None or (isinstance(entry, ReplaceEntry) and name in keys):
            made[name] = ReplaceEntry(shape, 1.0, key)
        elif type(entry) is LowRankEntry:
            made[name] = RebasedEntry(**vars(entry), base_key=key)
    return {**entries, **made}


def _weight_key(entry: AdapterEntry) -> str | None:
    """The key of the weight that an entry puts in the target's place."""
    if isinstance(entry, RebasedEntry):
        return entry.base_key
    return entry.key if isinstance(entry, ReplaceEntry) else None


def is_ignored_copy(
    adapter: Adapter, entries: Mapping[str, AdapterEntry], embedding: str | None, head: str | None
) -> bool:
    """Whether PEFT ignores an adapter's output layer on a target whose embeddings are untied.

    With ensure_weight_tying it stores the factors of tied embeddings for both ends, but selects the input.
    """
    if adapter.sidecar is not None or not adapter.config.ties_embeddings or head is None:
        return False
    both = embedding in entries and isinstance(entries.get(head), LowRankEntry)
    return both and not adapter.config.selects(module_of(head))


def _with_scaling_of(adapter: Adapter, end: str, entry: AdapterEntry) -> AdapterEntry:
    """One end's factors with the other end's alpha and rank of the config, which PEFT does not tie."""
    if not isinstance(entry, LowRankEntry):
        return entry
    return replace(entry, scaling=adapter.config.scaling(module_of(end)))


def _check_one_rank(adapter: Adapter, embedding: str, own: AdapterEntry) -> None:
    """Raise MismatchError for factors of the output layer that the input embeddings cannot have."""
    if not isinstance(own, LowRankEntry):
        return
    if own.magnitude is not None:
        raise _contradiction(adapter, "DoRA on the output layer alone")
    rank, stored = adapter.config.rank(module_of(embedding)), adapter.file_of(own.key_A)[own.key_A].shape[0]
    if rank != stored:
        raise _contradiction(adapter, f"rank {stored}, where its config gives {embedding!r} rank {rank}")


def _same_values(adapter: Adapter, shared: AdapterEntry, own: AdapterEntry) -> bool:
    """Whether both ends have the same factors or the same weight, as PEFT stores tied ones."""
    if isinstance(shared, LowRankEntry) and isinstance(own, LowRankEntry):
        pairs = [(adapter.read_floats(e.key_A), adapter.read_floats(e.key_B)) for e in (shared, own)]
        (A, B), other = pairs[0], pairs[1]
        if shared.embedding != own.embedding:
            A, B = B.T, A.T
        return all(a.shape == b.shape and bool((a == b).all()) for a, b in zip((A, B), other, strict=True))
    if isinstance(shared, ReplaceEntry) and isinstance(own, ReplaceEntry):
        digests = {tensor_digest(adapter.file_of(entry.key), entry.key) for entry in (shared, own)}
        return len(digests) == 1
    return True


def _check_shared_rows(adapter: Adapter, shared: TokenRowsEntry, own: TokenRowsEntry) -> None:
    """Raise MismatchError for other rows of the same tokens at the two ends, which PEFT shares."""
    digests = {tensor_digest(adapter.file_of(entry.key), entry.key) for entry in (shared, own)}
    if shared.indices == own.indices and len(digests) > 1:
        raise MismatchError(
            "has different rows of the same tokens for the two ends of the embeddings, which share one "
            "tensor in the target: PEFT uses those of the input embeddings for both",
            path=adapter.path, expected="one set of trained rows", received="two",
            remedy="merge it into a target with untied embeddings",
        )  # fmt: skip


def check_rows_of_output(adapter: Adapter, entries: Mapping[str, AdapterEntry], target: ModelFolder) -> None:
    """Raise MismatchError for rows of an untied output layer that the config names and the file lacks."""
    missing = next(missing_rows(entries, adapter.config), None)
    if missing is not None:
        raise MismatchError(
            f"was trained on tied embeddings and has no rows of {missing!r} (trainable_token_indices): PEFT "
            f"cannot load it into {target.path}, whose embeddings are untied",
            path=adapter.path, expected=f"trained rows of {missing!r}", received="none",
            remedy="merge it into a target with tied embeddings, or remove the module from "
            "trainable_token_indices, so that only the input embeddings change",
        )  # fmt: skip


def _contradiction(
    adapter: Adapter, received: str, expected: str = "one end, or the same for both"
) -> MismatchError:
    return MismatchError(
        "says that it ties both ends of the embeddings (ensure_weight_tying), and was trained where they are "
        "not tied: PEFT cannot load it into the target, whose embeddings are tied",
        path=adapter.path, expected=expected, received=received,
        remedy="merge it into a target with untied embeddings, or set ensure_weight_tying to false in "
        "adapter_config.json",
    )  # fmt: skip
