"""Which tensors of a target the adapters change, and how: under its names, with its tokens and its head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.entries import AdapterEntry, AdditiveEntry
from contextgraft.adapter.lora.low_rank import RebasedEntry
from contextgraft.adapter.merge.fitted_entries import fitted_entries, is_own_bias, without_own_base
from contextgraft.adapter.merge.positions import check_positions, grows, rows_of_positions
from contextgraft.adapter.merge.target import (
    check_has_head,
    check_names_and_head,
    check_takes_delta,
    unknown_names,
)
from contextgraft.adapter.merge.tied_entries import (
    check_rows_of_output,
    ends_of_untied,
    is_ignored_copy,
    with_both_ends,
    with_shared_ends,
)
from contextgraft.adapter.merge.tokens import TokenFit, check_new_rows, fit_tokens, unused_tokens
from contextgraft.adapter.without_factors import missing_factors
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.errors import MismatchError
from contextgraft.formats.architecture import check_shape
from contextgraft.formats.model.runtime_names import runtime_model
from contextgraft.formats.model.tied_head import HeadState, head_name, head_state, with_head
from contextgraft.formats.tensor_names import (
    input_embedding,
    output_embedding,
    rows_are_tokens,
)

if TYPE_CHECKING:
    from contextgraft.adapter.lora.array_deltas import ArrayDelta
    from contextgraft.adapter.lora.deltas import TensorDelta


@dataclass(frozen=True)
class ScaledAdapter:
    """An adapter and the factor on its delta; scale 0 changes only RoPE."""

    adapter: Adapter
    scale: float = 1.0


@dataclass(frozen=True)
class ScaledEntry:
    """One adapter's entry for one tensor, its factor, and its row for each of the graft's rows."""

    adapter: Adapter
    entry: AdapterEntry
    scale: float
    rows: Sequence[int] | None

    def load(self, device: str) -> "TensorDelta":
        """Read the entry's tensors and return the delta that is added to the target's tensor."""
        return self.adapter.load(self.entry, self.scale, self.rows, device)

    def load_arrays(self) -> "ArrayDelta":
        """As `load`, for numpy; where the entry has it."""
        return self.adapter.load_arrays(self.entry, self.scale, self.rows)


@dataclass(frozen=True)
class TensorChange:
    """One tensor of the graft: the target's tensor it starts from, its rows, and the entries added to it."""

    source: str
    rows: int
    entries: tuple[ScaledEntry, ...]

    @property
    def replaces(self) -> bool:
        """Whether an adapter overwrites it."""
        return any(item.entry.replaces for item in self.entries)


@dataclass(frozen=True)
class Fit:
    """The graft's tensors that change or are new, by name; where its vocabulary and its head come from."""

    changes: Mapping[str, TensorChange] = field(default_factory=dict)
    untied: bool = False
    vocabulary: int | None = None
    tokenizer: Path | None = None
    warnings: tuple[str, ...] = ()


def fit(adapters: Sequence[ScaledAdapter], target: ModelFolder, *, replace_modules: bool) -> Fit:
    """Match every active adapter to the target; what does not fit raises MismatchError."""
    check_names_and_head(target)
    state = head_state(target)
    embedding, head = input_embedding(target.tensors), output_embedding(target.tensors)
    head = head or (head_name(embedding) if embedding else None)
    view = with_head(target, head) if head else target
    token_fits, changes, missing = [], dict[str, list[ScaledEntry]](), list[str]()
    for scaled in adapters:
        if scaled.scale:
            entries = _entries(scaled.adapter, view, state, (embedding, head))
            missing += missing_factors(scaled.adapter, entries, view)
            if head in entries and entries[head] != entries.get(embedding or ""):
                check_has_head(target, head)
            if not replace_modules:
                _check_not_replaced(scaled.adapter, entries, RebasedEntry)
            tokens = fit_tokens(scaled.adapter, entries, _without_copy(view, state, head, entries))
            for name, entry in entries.items():
                check_positions(scaled.adapter, scaled.scale, name, entry, view)
            entries = _check_entries(scaled.adapter, entries, view, tokens)
            if not replace_modules:
                _check_not_replaced(scaled.adapter, entries)
            token_fits.append((scaled.adapter, tokens))
            for name, entry in entries.items():
                rows = tokens.rows if tokens and rows_are_tokens(name) else None
                changes.setdefault(name, []).append(ScaledEntry(scaled.adapter, entry, scaled.scale, rows))
    _check_replaced_once(changes)
    pairs = {name: [(item.adapter, item.entry) for item in items] for name, items in changes.items()}
    longer = rows_of_positions(pairs, view)
    grown = _grown(token_fits)
    untied = state is HeadState.CONTRADICTED
    if state.is_tied and embedding and head:
        untied = _tie(changes, embedding, head, stored=state is HeadState.COPY)
        if untied and state is HeadState.TIED:
            _check_head_name(target, head)
    if grown:
        ends = {name for name in (*target.tensors, *changes) if rows_are_tokens(name)}
        given = {name: [item.entry for item in items] for name, items in changes.items()}
        check_new_rows(grown, view, given, ends)
    made = {
        name: TensorChange(
            name if name in target.tensors else str(embedding),
            grown.total if grown and rows_are_tokens(name) else longer.get(name, view[name].rows),
            tuple(entries),
        )
        for name, entries in changes.items()
    }
    return Fit(
        made,
        untied,
        grown.total if grown and embedding and grown.total != target[embedding].rows else None,
        grown.tokenizer if grown else None,
        (
            *_warnings(target, state, untied, token_fits, grown),
            *missing,
            *unused_tokens(token_fits, target),
            *unknown_names(target, {*made}.difference(*(scaled.adapter.entries for scaled in adapters))),
        ),
    )


def _entries(
    adapter: Adapter, view: ModelFolder, state: HeadState, names: tuple[str | None, str | None]
) -> dict[str, AdapterEntry]:
    """The adapter's entries by the target's names; of tied embeddings, those of both ends."""
    fitted = fitted_entries(adapter, view)
    entries = {name: entry for name, entry in fitted.items() if not is_own_bias(adapter, name, entry, view)}
    embedding, head = names
    if not state.is_tied:
        check_rows_of_output(adapter, entries, view)
        ignored = is_ignored_copy(adapter, entries, embedding, head)
        entries = {name: entry for name, entry in entries.items() if not ignored or name != head}
        return entries if state is HeadState.NONE else with_both_ends(adapter, entries, embedding, head)
    if embedding is None or head is None:
        return entries
    return with_shared_ends(adapter, entries, embedding, head, view)


def _without_copy(
    view: ModelFolder, state: HeadState, head: str | None, entries: Mapping[str, AdapterEntry]
) -> ModelFolder:
    """The target without an output layer that follows the input embeddings, for counting rows."""
    keep = head is None or head in entries or not state.is_tied
    return view if keep else replace(view, tensors={n: i for n, i in view.tensors.items() if n != head})


def _check_entries(
    adapter: Adapter,
    entries: dict[str, AdapterEntry],
    view: ModelFolder,
    tokens: TokenFit | None,
) -> dict[str, AdapterEntry]:
    """The entries, without weights that are the target's own; shapes and dtypes that do not fit raise."""
    other = f"the adapter {adapter.path}"
    for name, entry in entries.items():
        any_rows = name in view.tensors and (rows_are_tokens(name) or grows(name, entry, view))
        rows = view.tensors[name].shape[:1] if any_rows else ()
        own_bias = isinstance(entry, AdditiveEntry) and ".lora_B." in entry.key
        if own_bias and name not in view.tensors:
            raise MismatchError(
                f"adds a bias to {name.removesuffix('.bias')!r} (lora_bias), which has none in the target",
                path=adapter.path, expected=f"{name!r} in {view.path}", received="no such tensor",
                remedy="load it at run time with PEFT, or train it without lora_bias",
            )  # fmt: skip
        check_shape(view, name, other, (*rows, *entry.shape[len(rows) :]))
        check_takes_delta(view, name, other)
    plain = {name: without_own_base(adapter, name, entry, view) for name, entry in entries.items()}
    gains_tokens = tokens is not None and tokens.total > max(
        (view[name].rows for name in entries if rows_are_tokens(name)), default=0
    )
    return entries if gains_tokens else plain


def _check_not_replaced(
    adapter: Adapter, entries: Mapping[str, AdapterEntry], *besides: type[AdapterEntry]
) -> None:
    replaced = [name for name, entry in entries.items() if entry.replaces and not isinstance(entry, besides)]
    if replaced:
        raise MismatchError(
            f"would overwrite {', '.join(replaced)} of the target",
            path=adapter.path,
            remedy="allow it with --replace-modules, or use an adapter of deltas only",
        )


def _check_replaced_once(changes: Mapping[str, Sequence[ScaledEntry]]) -> None:
    for name, items in sorted(changes.items()):
        if len(items) > 1 and any(item.entry.replaces for item in items):
            raise MismatchError(
                f"tensor {name!r} would be overwritten and changed", expected="one adapter that changes it",
                received=", ".join(str(item.adapter.path) for item in items),
                remedy="merge first the adapter that overwrites it, and the other one into the result",
            )  # fmt: skip


def _grown(token_fits: Sequence[tuple[Adapter, TokenFit | None]]) -> TokenFit | None:
    """The fit of the adapter that brings tokens; only one that changes embeddings may, and alone."""
    with_tokens = [(adapter, tokens) for adapter, tokens in token_fits if tokens is not None]
    grown = [(adapter, tokens) for adapter, tokens in with_tokens if tokens.tokenizer is not None]
    if grown and len(with_tokens) > 1:
        raise MismatchError(
            "brings new tokens, and another adapter changes the embeddings, too",
            path=grown[0][0].path, received=", ".join(str(adapter.path) for adapter, _ in with_tokens),
            remedy="merge this one first, and the other into the result",
        )  # fmt: skip
    return grown[0][1] if grown else None


def _tie(changes: dict[str, list[ScaledEntry]], embedding: str, head: str, *, stored: bool) -> bool:
    """Complete the changes of tied embeddings; True if input and output differ afterwards."""
    if embedding not in changes and head not in changes:
        return False
    if changes.get(embedding) == changes.get(head):
        if not stored:
            del changes[head]
        return False
    based = [item for item in changes.get(embedding, []) if isinstance(item.entry, RebasedEntry)]
    if head not in changes and (based or not stored):
        # PEFT loads the weight under the factors into both, as they are one there
        changes[head] = [
            replace(item, entry=item.entry.base) for item in based if isinstance(item.entry, RebasedEntry)
        ]
    return True


def _check_head_name(target: ModelFolder, head: str) -> None:
    """Raise MismatchError where the class of the target would not load an output layer of this name."""
    model = runtime_model(target.config)
    if model is not None and model.name(head) not in model.shapes:
        raise MismatchError(
            "would get an output layer of its own, for which the name in this class is not known",
            path=target.path, expected="a model with lm_head or embed_out", received=f"{head!r}",
            remedy="use an adapter that leaves the output layer alone",
        )  # fmt: skip


def _warnings(
    target: ModelFolder,
    state: HeadState,
    untied: bool,
    token_fits: Sequence[tuple[Adapter, TokenFit | None]],
    grown: TokenFit | None,
) -> list[str]:
    lines = []
    if state is HeadState.CONTRADICTED:
        lines.append(
            f"{target.path}: its config ties lm_head to the input embeddings, but other values are stored, "
            "which transformers 5 uses; the graft says tie_word_embeddings false, so that all readers do"
        )
    elif untied:
        lines.append(
            f"{target.path}: its embeddings are tied, and an adapter changes one end only: the graft is "
            "untied, with an lm_head of its own, as PEFT computes it"
        )
    if grown:
        lines.append(
            f"{target.path}: the graft has {grown.total} rows of embeddings, and the tokenizer of "
            f"{grown.tokenizer}"
        )
    for adapter, tokens in token_fits:
        lines += () if state.is_tied else ends_of_untied(adapter, target)
        if tokens and tokens.lost:
            few = ", ".join(tokens.lost[:5])
            lines.append(f"{adapter.path}: {len(tokens.lost)} of its tokens are not in {target.path}: {few}")
    return lines
