"""Settings that an older transformers has no key for are warnings that name it."""

from typing import Any

import pytest

from contextgraft.rope.older_readers import older_reader_warnings

WINDOW = {"model_type": "qwen2", "num_hidden_layers": 2, "use_sliding_window": True, "sliding_window": 16}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
LONG = {"model_type": "llama", "max_position_embeddings": 4096}
ORIGINAL = "original_max_position_embeddings"
FULL, SLIDING = "full_attention", "sliding_attention"


def by_layer_type(full: float, sliding: float) -> dict[str, Any]:
    return {FULL: {"rope_theta": full}, SLIDING: {"rope_theta": sliding}}


@pytest.mark.parametrize(
    ("config", "reader"),
    [
        ({**WINDOW, "max_window_layers": 1}, "4.46"),
        ({**WINDOW, "layer_types": [FULL, SLIDING]}, "4.46"),
        ({"model_type": "qwen2_5_vl", "text_config": {**WINDOW, "layer_types": [SLIDING, FULL]}}, "4.46"),
        ({**WINDOW, "layer_types": [SLIDING, SLIDING]}, None),
        ({**WINDOW, "max_window_layers": 2}, None),
        ({**WINDOW, "max_window_layers": 1, "use_sliding_window": False}, None),
        ({**WINDOW, "max_window_layers": 1, "model_type": "qwen3"}, None),
        ({"model_type": "mistral", "rope_scaling": {"type": "linear", "factor": 4.0}}, "before 4.57"),
        (
            {"model_type": "llava", "text_config": {"model_type": "gemma2", "rope_scaling": YARN}},
            "before 4.57",
        ),
        ({"model_type": "nemotron", "rope_scaling": YARN}, "before 5"),
        ({"model_type": "llama4_text", "rope_scaling": YARN}, "4.57"),
        ({"model_type": "llama4_text", "rope_scaling": {"rope_type": "llama3"}}, None),
        ({"model_type": "mistral", "rope_scaling": None, "rope_parameters": {"rope_type": "default"}}, None),
        ({"model_type": "llama", "rope_scaling": YARN, "rope_parameters": YARN}, None),
        ({**LONG, "rope_scaling": {**YARN, ORIGINAL: 4096}}, None),
        ({**LONG, "rope_scaling": {**YARN, ORIGINAL: 1024}}, "4.46 takes 4096"),
        (
            {**LONG, "model_type": "llava", "text_config": {**LONG, "rope_scaling": {**YARN, ORIGINAL: 1}}},
            "4.46",
        ),
        ({**LONG, "model_type": "qwen3", "rope_scaling": {**YARN, ORIGINAL: 1024}}, None),
        ({**LONG, "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7}}, "4.46 ignores"),
        ({**LONG, "rope_scaling": {**YARN, "truncate": False}}, "4.46 ignores"),
        ({**LONG, "rope_scaling": {"rope_type": "longrope"}}, "4.46 applies"),
        ({"model_type": "phi3", "rope_scaling": {"type": "longrope"}}, None),
        ({"model_type": "mamba2"}, "4.46 computes"),
        ({"model_type": "recurrent_gemma"}, "4 computes"),
        ({"model_type": "phi3", "rope_parameters": YARN}, "4 "),
        ({"model_type": "olmo3", "rope_parameters": by_layer_type(4e5, 1e4)}, "4.57"),
        ({"model_type": "olmo3", "rope_parameters": by_layer_type(1e4, 1e4)}, None),
        ({"model_type": "modernbert-decoder", "rope_parameters": by_layer_type(4e5, 1e4)}, "4.57"),
        ({"model_type": "modernbert-decoder", "rope_parameters": by_layer_type(1e4, 1e4)}, None),
        ({"model_type": "gemma3_text", "rope_parameters": by_layer_type(1e6, 1e4)}, None),
    ],
)
def test_the_reader_is_named(config: dict[str, Any], reader: str | None) -> None:
    said = list(older_reader_warnings(config))
    assert len(said) == (reader is not None)
    assert all(f"transformers {reader}" in line for line in said)
