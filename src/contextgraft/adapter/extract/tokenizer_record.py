"""The digests of both tokenizers, by which an extraction of embeddings matches their rows."""

from typing import Any

from contextgraft.adapter.extract.model_pair import ModelPair
from contextgraft.checkpoint.digest import file_digest
from contextgraft.formats.model.vocabulary import TOKENIZER
from contextgraft.formats.tensor_names import BY_TOKEN


def tokenizer_record(models: ModelPair) -> dict[str, Any]:
    """What sidecars record of the tokenizers of base and donor; empty if no embeddings are extracted."""
    if not any(models.names_by_role[kind] for kind in BY_TOKEN):
        return {}
    paths = {"base": models.base.path / TOKENIZER, "donor": models.donor.path / TOKENIZER}
    return {
        "tokenizers": {side: file_digest(path) if path.exists() else None for side, path in paths.items()}
    }
