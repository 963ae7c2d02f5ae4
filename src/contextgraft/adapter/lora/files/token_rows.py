"""Rows of single tokens that PEFT trains (trainable_token_indices), and the modules that the config names."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from contextgraft.adapter.lora.config import LoraConfig
from contextgraft.adapter.lora.entries import AdapterEntry, TokenRowsEntry
from contextgraft.adapter.peft_keys import TOKEN_ROWS
from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.errors import CheckpointError
from contextgraft.formats.peft import module_of
from contextgraft.formats.tensor_names import INPUTS, OUTPUTS


def token_rows_entry(name: str, info: TensorInfo, path: Path, config: LoraConfig) -> TokenRowsEntry:
    """The entry of trained rows, whose tokens are in the config; `path` is the weights file.

    Raises CheckpointError for rows that the config does not name, which PEFT ignores, and for another number
    of rows.
    """
    module = name.partition(TOKEN_ROWS)[0]
    tokens = next((rows for end, rows in _listed(config).items() if _is_named(end, module)), None)
    if tokens is None:
        raise CheckpointError(
            f"has trained rows of {module!r}, which the config does not name: PEFT ignores them", path=path,
            expected=f"the tokens of {module!r} in trainable_token_indices",
            received=f"{config.trainable_token_indices}"[:80],
            remedy="write the tokens of the rows into trainable_token_indices, or save the adapter again",
        )  # fmt: skip
    if len(info.shape) != 2 or len(tokens) != info.shape[0] or not tokens or min(tokens) < 0:
        raise CheckpointError(
            f"the trained rows of {module!r} do not fit the config's trainable_token_indices", path=path,
            expected=f"a row for each of {len(tokens)} tokens", received=f"shape {list(info.shape)}",
            remedy="fetch it again",
        )  # fmt: skip
    return TokenRowsEntry(info.shape, 1.0, info.name, tuple(tokens))


def check_trained_rows(entries: Mapping[str, AdapterEntry], path: Path, config: LoraConfig) -> None:
    """Raise CheckpointError for a module whose tokens the config names and whose rows are not in the file.

    PEFT stores the rows of tied embeddings once, for the input; whether an output layer is tied is seen in
    the model that the adapter is merged into.
    """
    missing = [end for end in missing_rows(entries, config) if _without_output(end, entries, config)]
    if missing:
        raise CheckpointError(
            "lacks the rows of tokens that its config names (trainable_token_indices): PEFT does not load it",
            path=path, expected=f"trained rows of {missing[0] or 'the input embeddings'}", received="none",
            remedy="save the adapter again with PEFT's save_pretrained, or remove trainable_token_indices "
            "from adapter_config.json if no tokens were trained",
        )  # fmt: skip


def missing_rows(entries: Mapping[str, AdapterEntry], config: LoraConfig) -> Iterator[str]:
    """The modules whose tokens the config names, and of which no entry has trained rows."""
    trained = [module_of(name) for name, entry in entries.items() if isinstance(entry, TokenRowsEntry)]
    for end in _listed(config):
        if not any(_is_named(end, module) for module in trained):
            yield end


def _without_output(end: str, entries: Mapping[str, AdapterEntry], config: LoraConfig) -> bool:
    """Whether a module without rows is no output layer that shares those of the input embeddings."""
    tokens = _listed(config)[end]
    shared = any(
        isinstance(entry, TokenRowsEntry) and entry.indices == tuple(tokens) for entry in entries.values()
    )
    return end.rpartition(".")[2] not in OUTPUTS or not shared


def _listed(config: LoraConfig) -> Mapping[str, Sequence[int]]:
    """The tokens by the end of a module's name; "" are the input embeddings, whatever their name is."""
    given = config.trainable_token_indices
    if given is None:
        return {}
    return given if isinstance(given, dict) else {"": given}


def _is_named(end: str, module: str) -> bool:
    """Whether PEFT trains rows of a module for an entry of trainable_token_indices."""
    return module.endswith(end) if end else module.rpartition(".")[2] in INPUTS
