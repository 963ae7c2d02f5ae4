"""What a plan counts for weights that are not trained, against numbers computed by hand."""

from typing import Any

import pytest

from contextgraft.planning.hardware import Hardware
from contextgraft.planning.shapes.model_shape import ModelShape, read_model_shape
from contextgraft.planning.training import ParallelPlan, stage_costs

from .shapes import shape_of
from .test_training import TINY, recipe

LORA: dict[str, Any] = {"lora": {"rank": 2, "alpha": 4}, "trainable": ["linear", "norms"]}
FACTORS, NORMS, LINEAR = 2 * 2 * (4 * 8 + 2 * 3 * 4 + 3 * 24), 40, 1152
UNTIED = shape_of(
    {
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10, "tie_word_embeddings": False,
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "ranks", "dtype", "expected"),
    [
        (LORA, 4, "bfloat16", (4 * (FACTORS + NORMS) + 2 * (LINEAR + 80)) / 4),
        (LORA, 4, "float32", 4 * (FACTORS + 1272) / 4),
        ({"trainable": ["norms"]}, 4, "bfloat16", (4 * NORMS + 2 * (LINEAR + 80)) / 4),
        # one process: embeddings stay float32, and with them the output layer that is tied to them
        (LORA, 1, "bfloat16", 4 * (FACTORS + NORMS + 80) + 2 * LINEAR),
        ({"trainable": ["norms", "linear"]}, 1, "bfloat16", 4 * 1272),
        ({}, 4, "bfloat16", 4 * 1272 / 4),
    ],
)
def test_tiny_by_hand(changes: dict[str, Any], ranks: int, dtype: str, expected: float) -> None:
    assert weights(changes, TINY, ParallelPlan(ranks, context=ranks, dtype=dtype)) == expected


def test_an_output_layer_of_its_own_is_a_linear_layer() -> None:
    """Of 10 x 8 numbers, as the embeddings are."""
    one = ParallelPlan(1, context=1, dtype="bfloat16")
    assert weights(LORA, UNTIED, one) == 4 * (FACTORS + NORMS + 80) + 2 * (LINEAR + 80)
    every = LORA | {"trainable": ["linear", "embeddings"]}
    assert weights(every, UNTIED, one) == 4 * (FACTORS + NORMS + 160) + 2 * LINEAR


def test_70b_on_eight_cards() -> None:
    """16 GiB a card, and the factors."""
    shape = read_model_shape("llama3-70b")
    held = weights(
        {"lora": {"rank": 1, "alpha": 1}, "trainable": ["linear"]}, shape, ParallelPlan(8, context=8)
    )
    factors = 80 * (2 * 2 * 8192 + 2 * (8192 + 1024) + 3 * (8192 + 28672))
    assert held == (2 * 70553706496 + 4 * factors) / 8
    assert round(held / 2**30, 1) == 16.4


def weights(changes: dict[str, Any], shape: ModelShape, plan: ParallelPlan) -> float:
    (cost,) = stage_costs(recipe(**changes), shape, Hardware(), plan)
    return cost.memory.weights
