"""The tokens of a model, read from tokenizer.json without loading a tokenizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.model_folder import ModelFolder, read_json
from contextgraft.errors import CheckpointError, MismatchError

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class VocabularyDifference:
    """Tokens of two vocabularies, compared by text and id."""

    same: int
    moved: tuple[str, ...]
    only_base: tuple[str, ...]
    only_model: tuple[str, ...]


def read_vocabulary(folder: ModelFolder) -> dict[str, int] | None:
    """Token -> id, added tokens among them; None for a folder without tokenizer.json."""
    return vocabulary_at(folder.path / TOKENIZER) if TOKENIZER in folder.others else None


def vocabulary_at(path: Path) -> dict[str, int]:
    """Token -> id from a tokenizer.json; one without a vocabulary raises CheckpointError."""
    data = read_json(path)
    try:
        added: list[dict[str, Any]] = data.get("added_tokens") or []
        return {
            **listed(data["model"]["vocab"]),
            **{str(token["content"]): int(token["id"]) for token in added},
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError(
            "has no readable vocabulary", path=path, expected="model.vocab and added_tokens"
        ) from None


def listed(vocab: dict[str, int] | list[list[Any]]) -> dict[str, int]:
    """Token -> id from a mapping (BPE, WordLevel) or from a list of [token, score] (Unigram)."""
    if isinstance(vocab, dict):
        return {str(token): int(index) for token, index in vocab.items()}
    return {str(token): index for index, (token, _) in enumerate(vocab)}


def compare(base: dict[str, int], model: dict[str, int]) -> VocabularyDifference:
    """Number of tokens with the same id; sorted tokens with another id, and of one vocabulary only."""
    shared = base.keys() & model.keys()
    moved = {token for token in shared if base[token] != model[token]}
    return VocabularyDifference(
        same=len(shared) - len(moved),
        moved=tuple(sorted(moved)),
        only_base=tuple(sorted(base.keys() - shared)),
        only_model=tuple(sorted(model.keys() - shared)),
    )


def correspondence(
    rows_of: tuple[dict[str, int] | None, int], rows_in: tuple[dict[str, int] | None, int]
) -> list[int] | None:
    """For each row of one embedding the row of the other with the same token, or -1; None if equal.

    Each side is (vocabulary, number of rows). Rows without a token on either side (padding) correspond
    by position. Without both vocabularies the numbers of rows must be equal, else MismatchError.
    """
    (tokens, count), (others, other_count) = rows_of, rows_in
    if tokens is None or others is None:
        if count == other_count:
            return None
        raise MismatchError(
            "embeddings of different sizes can be aligned only by their tokens",
            expected=f"{TOKENIZER} in both folders",
            received=f"{count} and {other_count} rows",
        )
    if tokens == others and count == other_count:
        return None
    claimed, taken = {tokens[token] for token in tokens}, set(others.values())
    rows = [-1 if row in claimed or row in taken or row >= other_count else row for row in range(count)]
    for token, row in tokens.items():
        if 0 <= row < count and 0 <= others.get(token, other_count) < other_count:
            rows[row] = others[token]
    return rows
