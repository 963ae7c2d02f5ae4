"""The tokens of a model, read from tokenizer.json without loading a tokenizer."""

from dataclasses import dataclass
from typing import Any

from contextgraft.checkpoint.layout import ModelFolder, read_json
from contextgraft.errors import CheckpointError

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
    if TOKENIZER not in folder.others:
        return None
    path = folder.path / TOKENIZER
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
    """Which tokens stand at the same id, which moved, which only one of the two has; sorted."""
    shared = base.keys() & model.keys()
    moved = {token for token in shared if base[token] != model[token]}
    return VocabularyDifference(
        same=len(shared) - len(moved),
        moved=tuple(sorted(moved)),
        only_base=tuple(sorted(base.keys() - shared)),
        only_model=tuple(sorted(model.keys() - shared)),
    )
