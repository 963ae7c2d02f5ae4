"""Any value under any key of config.json: a model that is loaded, or one line; never another exception."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from contextgraft.errors import ContextgraftError
from contextgraft.evaluation.backends.loading import load_model
from contextgraft.evaluation.models import open_eval_model

KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_parameters",
    "rope_scaling", "rope_theta", "hidden_act", "layer_types", "sliding_window", "bos_token_id",
    "tie_word_embeddings", "attention_bias", "model_type", "architectures", "dtype", "quantization_config",
    "text_config", "id2label", "num_labels",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    0, 1, 3, -1, 10**9, 10**12, 10**30, 0.5, 2.0, 1e300, True, False, None, "", "x", "7", [], [1], ["x"], {},
    {"a": 1}, {"rope_type": "x"}, {"rope_type": "linear", "factor": -1}, "é" * 300,
)  # fmt: skip
FEW = (
    ("vocab_size", 10**12), ("head_dim", 10**9), ("head_dim", 2.0), ("num_key_value_heads", 64),
    ("num_key_value_heads", -1), ("num_attention_heads", "7"), ("hidden_size", True),
    ("sliding_window", 10**30),
)  # fmt: skip
MANY = tuple((key, value) for key in KEYS for value in VALUES)


@pytest.mark.parametrize("cases", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
def test_any_value_is_taken_or_refused_in_one_line(
    make_model: Callable[..., Path], cases: tuple[tuple[str, Any], ...]
) -> None:
    path = make_model() / "config.json"
    right = json.loads(path.read_text())
    lines = []
    for key, value in cases:
        path.write_text(json.dumps({**right, key: value}))
        try:
            open_eval_model(None, path.parent)
            load_model(path.parent, torch.device("cpu"), "float32")
        except ContextgraftError as error:
            lines.append(str(error))
    assert len(lines) >= len(cases) // 2
    assert not [line for line in lines if len(line) > 1000 or not line.isprintable()]
