"""Which row of an adapter goes to which row of a target, and which tokens the target gains."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.entries import AdapterEntry, TokenRowsEntry
from contextgraft.checkpoint.model_folder import ModelFolder, read_json
from contextgraft.errors import CheckpointError, MismatchError, first_names, raise_read_error
from contextgraft.formats.architecture import check_shape
from contextgraft.formats.model.vocabulary import TOKENIZER, correspondence, read_vocabulary
from contextgraft.formats.tensor_names import rows_are_tokens
from contextgraft.rope.context_files import TOKENIZER_CONFIG

SHOWN = 5  # tokens that a message lists
WITH_ROWS = "save the adapter with its embeddings: save_pretrained(..., save_embedding_layers=True)"
TEMPLATE, TEMPLATE_KEY = "chat_template.jinja", "chat_template"  # a file, or a key of tokenizer_config.json
# a tokenizer's files, of any kind: they are taken along as one
TOKENIZER_FILES = (
    TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", TEMPLATE,
)  # fmt: skip


@dataclass(frozen=True)
class TokenFit:
    """`rows`: the adapter's row for each of the graft's, -1 for none; None where they correspond.

    `total`: rows of the graft's embeddings; `tokenizer`: the folder whose tokenizer the graft gets, if not
    the target's; `lost`: tokens that the adapter changes and the target does not have.
    """

    rows: Sequence[int] | None
    total: int
    tokenizer: Path | None = None
    lost: tuple[str, ...] = ()


def fit_tokens(adapter: Adapter, entries: Mapping[str, AdapterEntry], target: ModelFolder) -> TokenFit | None:
    """Match the rows of token embeddings; `entries` by the target's names. None if none has tokens' rows."""
    entries = {name: entry for name, entry in sorted(entries.items()) if rows_are_tokens(name)}
    if not entries:
        return None
    for name in entries.keys() - target.tensors.keys():
        check_shape(target, name, f"the adapter {adapter.path}", entries[name].shape)  # raises
    tokens = adapter.vocabulary
    if _same_rows(entries, target) and (tokens is None or tokens == read_vocabulary(target)):
        return TokenFit(None, max(target[name].rows for name in entries))
    needed, count = _row_counts(adapter, entries, target)
    own = None if tokens is None else read_vocabulary(target)
    new = _new_tokens(tokens, own, entries.values())
    if adapter.sidecar is None and (needed > count or new):
        return _grown(adapter, target, needed, count)
    try:
        rows = correspondence((own, count), (tokens, max(needed, 1)))
    except MismatchError as error:
        raise MismatchError(f"does not fit the adapter {adapter.path}: {error}", path=target.path) from None
    missing = (tokens or {}).keys() - (own or {}).keys() if tokens is not None and own is not None else ()
    lost = () if adapter.sidecar else tuple(sorted(missing))
    return TokenFit(rows, count, None, lost)


def lost_template(adapter_tokenizer: Path, target: ModelFolder) -> Iterator[str]:
    """A warning where the target has a chat template, and the tokenizer that the graft gets has none."""
    if _has_template(target.path) and not _has_template(adapter_tokenizer):
        yield (
            f"{target.path}: its chat template is not in the tokenizer of {adapter_tokenizer}, and the graft "
            f"has none; add it to that folder before the merge, or to the graft ({TEMPLATE})"
        )


def _has_template(folder: Path) -> bool:
    config = folder / TOKENIZER_CONFIG
    return (folder / TEMPLATE).is_file() or (config.is_file() and bool(read_json(config).get(TEMPLATE_KEY)))


def unused_tokens(fits: Iterable[tuple[Adapter, TokenFit | None]], target: ModelFolder) -> Iterator[str]:
    """Warnings about tokens of adapters that change no embeddings, which the target's tokenizer lacks."""
    for adapter, tokens in fits:
        if tokens is not None or adapter.sidecar is not None:
            continue
        try:
            known = adapter.vocabulary
            own = None if known is None else read_vocabulary(target)
        except CheckpointError as error:
            raise_read_error(error, target.path)
            # no embeddings are matched: a vocabulary of another kind does not matter
            continue
        new = [] if known is None or own is None else sorted(known.keys() - own.keys(), key=known.__getitem__)
        if new:
            yield (
                f"{adapter.path}: its tokenizer has tokens that {target.path} lacks "
                f"({first_names(new, SHOWN)}); it has no embeddings for them, and the graft has the "
                "target's tokenizer"
            )


def _same_rows(entries: Mapping[str, AdapterEntry], target: ModelFolder) -> bool:
    """Whether every entry is of a whole table with as many rows as the target's."""
    return not any(
        isinstance(entry, TokenRowsEntry) or entry.token_rows != target[name].rows
        for name, entry in entries.items()
    )


def _row_counts(
    adapter: Adapter, entries: Mapping[str, AdapterEntry], target: ModelFolder
) -> tuple[int, int]:
    """Rows of the adapter's embeddings, and of the target's."""
    counts = {target[name].rows for name in entries}
    single = [entry.token_rows for entry in entries.values() if isinstance(entry, TokenRowsEntry)]
    whole = {entry.token_rows for entry in entries.values() if not isinstance(entry, TokenRowsEntry)}
    if len(counts) > 1 or len(whole) > 1:
        raise MismatchError(
            f"does not fit the adapter {adapter.path}: embeddings of different lengths",
            path=target.path, received=f"{sorted(counts)} rows, and {sorted(whole)} of the adapter",
        )  # fmt: skip
    count = counts.pop()
    return (whole.pop() if whole else max(count, *single)), count


def _new_tokens(
    tokens: Mapping[str, int] | None, own: Mapping[str, int] | None, entries: Iterable[AdapterEntry]
) -> list[str]:
    """Tokens whose rows the adapter gives and whose text the target does not have."""
    if tokens is None or own is None:
        return []
    entries = list(entries)
    return [
        token for token, row in tokens.items()
        if token not in own and any(entry.covers(row) for entry in entries)
    ]  # fmt: skip


def check_new_rows(
    fit: TokenFit, target: ModelFolder, changes: Mapping[str, Sequence[AdapterEntry]], names: Iterable[str]
) -> None:
    """Raise MismatchError unless the entries give every row that embeddings of these names gain."""
    for name in sorted(names):
        entries = changes.get(name, ())
        gained = range(target[name].rows if name in target.tensors else fit.total, fit.total)
        missing = [row for row in gained if not any(entry.covers(row) for entry in entries)]
        if missing:
            raise MismatchError(
                f"has {fit.total} tokens, and the target {target.path} {gained.start} rows of {name!r}; it "
                f"has no values for row {missing[0]}",
                path=fit.tokenizer, expected="complete embeddings of all its tokens",
                received="factors or single rows" if entries else "none", remedy=WITH_ROWS,
            )  # fmt: skip


def _grown(adapter: Adapter, target: ModelFolder, needed: int, count: int) -> TokenFit:
    """The adapter's vocabulary, where it is the target's and more; anything else raises MismatchError."""
    tokens, own = adapter.vocabulary, read_vocabulary(target)
    if tokens is None or own is None:
        missing = adapter.path if tokens is None else target.path
        raise MismatchError(
            f"has embeddings of {needed} rows, and the target {target.path} of {count}",
            path=adapter.path, expected=f"{TOKENIZER} in both folders, to know the new tokens",
            received=f"none in {missing}",
            remedy=f"copy the tokenizer that belongs to it into {missing}",
        )  # fmt: skip
    others = sorted((token for token, row in own.items() if tokens.get(token) != row), key=own.__getitem__)
    if others:
        new = sorted(tokens.keys() - own.keys(), key=tokens.__getitem__)
        raise MismatchError(
            f"adds tokens ({first_names(new, SHOWN)}) to a vocabulary that is not the target's",
            path=adapter.path, expected=f"every token of {target.path} at its own row",
            received=f"other or no rows for {first_names(others, SHOWN)}",
            remedy="merge it into the model it was trained on, and extract from that",
        )  # fmt: skip
    total = max(needed, count)
    rows = None if needed == total else [row if row < needed else -1 for row in range(total)]
    return TokenFit(rows, total, adapter.path)
