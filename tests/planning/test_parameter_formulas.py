"""Formulas against the model classes of transformers, and plans that do not import torch."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from contextgraft.planning.shapes.meta_model import build_shape
from contextgraft.planning.shapes.model_shape import ModelShape
from contextgraft.planning.shapes.parameter_formulas import FAMILIES, evaluate_formula

from ..cli.fork_server import fork_server
from .shapes import shape_of

ROOT = Path(__file__).parents[2]
SIZES: dict[str, Any] = {
    "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 7, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "llama": [
        {}, {"head_dim": 20}, {"attention_bias": True}, {"mlp_bias": True}, {"tie_word_embeddings": True},
        {"num_key_value_heads": None}, {"dtype": "float32"}, {"torch_dtype": "float16"},
    ],
    "mistral": [{}, {"sliding_window": None}, {"sliding_window": 9}, {"head_dim": 20}],
    "qwen2": [{}, {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 3}],
    "qwen3": [
        {}, {"head_dim": 20}, {"attention_bias": True}, {"use_sliding_window": True, "max_window_layers": 5}
    ],
    "gemma": [{}, {"head_dim": 20}, {"tie_word_embeddings": False}],
    "gemma2": [{}, {"layer_types": ["full_attention"] * 7}, {"sliding_window": 9}],
    "gemma3_text": [{}, {"sliding_window_pattern": 3}, {"attention_bias": True}],
    "phi3": [{}, {"sliding_window": 9}, {"num_key_value_heads": None}],
}  # fmt: skip
CASES = [(family, changes) for family, variants in VARIANTS.items() for changes in variants]


@cache
def built_shape(config: str) -> ModelShape:
    """The shape of transformers' class for a config.json."""
    return build_shape("built", json.loads(config), Path("config.json"), "auto")


def test_every_family_is_compared() -> None:
    assert list(VARIANTS) == list(FAMILIES)


@pytest.mark.parametrize(("family", "changes"), CASES, ids=[f"{family} {c}" for family, c in CASES])
def test_a_formula_is_the_class_of_transformers(family: str, changes: dict[str, Any]) -> None:
    config = {"model_type": family, **SIZES, **changes}
    assert evaluate_formula(config, Path("config.json")) is not None
    computed, built = shape_of(config), built_shape(json.dumps(config))
    assert dict(computed.tensors) == dict(built.tensors)
    for name in ("hidden", "heads", "kv_heads", "head_dim", "vocabulary", "windows", "dtype", "tied", "idle"):
        assert getattr(computed, name) == getattr(built, name), name


@pytest.mark.parametrize("key", ["num_key_value_heads", "head_dim", "sliding_window"])
@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_those_of_transformers(family: str, key: str) -> None:
    config = {"model_type": family, **SIZES}
    config.pop(key, None)
    computed, built = shape_of(config), built_shape(json.dumps(config))
    assert (computed.kv_heads, computed.head_dim, computed.windows) == (
        built.kv_heads, built.head_dim, built.windows
    )  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "evaluation", "llama3-8b"],
        ["plan", "llama3-70b", "--suite", "ruler"],
        ["plan", "study", "config/studies/llama3-8b-1048k.yaml"],
        ["plan", "study", "config/config.yaml"],
        [
            *("plan", "training", "config/recipes/llama3-8b-gradient-1048k.yaml"),
            *("--base", "src/contextgraft/planning/shapes/llama3-8b.json", "--ranks", "8"),
        ],
        [
            *("train", "--plan", "--config", "config/recipes/llama3-8b-gradient-1048k.yaml"),
            *("--base", "src/contextgraft/planning/shapes/llama3-8b.json"),
        ],
        ["plan", "evaluation", "nowhere"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_plans_do_not_import_torch(words: list[str]) -> None:
    done = fork_server().run(*words, folder=ROOT)
    assert not {"torch", "transformers"} & set(done.imported)
    assert done.returncode == (2 if "nowhere" in words else 0), done.stderr
