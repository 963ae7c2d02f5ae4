"""Shapes that tests of planning use."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from contextgraft.planning.shapes.model_shape import ModelShape, read_model_shape

LLAMA_8B = read_model_shape("llama3-8b")
LLAMA_70B = read_model_shape("llama3-70b")
SMALL = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 18, "tie_word_embeddings": True,
}  # fmt: skip


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a config.json of this content describes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        return read_model_shape(path)


def made_up(name: str, *windows: int | None) -> ModelShape:
    """1,000 weights in a vector, 2 heads of 4 numbers with as many for keys and values, and these windows."""
    return ModelShape(
        name, hidden=8, intermediate=8, heads=2, kv_heads=2, head_dim=4, vocabulary=1,
        windows=windows, tensors={"weights": (1000,)},
    )  # fmt: skip
