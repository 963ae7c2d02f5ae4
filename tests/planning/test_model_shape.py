"""Shapes from config.json alone: every architecture transformers knows, or one line why not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM

from contextgraft.errors import CheckpointError, InputError
from contextgraft.planning.shapes.config_values import MAX_LAYERS
from contextgraft.planning.shapes.model_shape import find_config, read_model_shape, shipped_shapes

MakeModel = Callable[..., Path]
LLAMA = json.loads(shipped_shapes()["llama3-8b"].read_text())
QWEN_WINDOWS = {"model_type": "qwen2", "use_sliding_window": True, "layer_types": ["sliding_attention"] * 2}
SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 6, "vocab_size": 50}


def config(tmp_path: Path, **values: Any) -> str:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    return str(path)


def test_a_folder_a_file_and_a_name(tmp_path: Path) -> None:
    assert list(shipped_shapes()) == ["llama3-70b", "llama3-8b", "smollm2-135m"]
    assert find_config("llama3-8b") == ("llama3-8b", shipped_shapes()["llama3-8b"])
    file = Path(config(tmp_path, **LLAMA))
    assert find_config(str(file)) == find_config(str(tmp_path)) == (tmp_path.name, file)
    assert find_config(str(shipped_shapes()["llama3-8b"]))[0] == "llama3-8b"
    with pytest.raises(
        InputError, match=r"nowhere: no such model; expected .*llama3-70b or llama3-8b or smollm2-135m"
    ):
        find_config("nowhere")


def test_parameters_are_those_of_the_real_model(make_model: MakeModel) -> None:
    folder = make_model(head_dim=12, tie_word_embeddings=False)
    shape = read_model_shape(str(folder), "float32")
    assert shape.parameters == sum(p.numel() for p in LlamaForCausalLM.from_pretrained(folder).parameters())
    assert shape.active == shape.parameters
    assert (shape.width, shape.kv_heads, shape.head_dim, shape.windows) == (24, 1, 12, (None,))
    assert shape.dtype == "float32"
    assert read_model_shape(str(folder), "auto").dtype == "bfloat16"


BARE = {
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 10, "tie_word_embeddings": False,
}  # fmt: skip


def test_sizes_of_llama_without_a_model_type_are_planned_as_llama(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(BARE))
    shape = read_model_shape(str(path))
    layer = 2 * 8 * 8 + 2 * 4 * 8 + 3 * 8 * 12 + 2 * 8
    assert shape.parameters == 2 * layer + 2 * 10 * 8 + 8
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: no model_type; planned as a Llama model"
    ]


@pytest.mark.parametrize("key", ["num_local_experts", "architectures", "sliding_window", "kv_lora_rank"])
def test_other_keys_without_a_model_type_are_refused(key: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(BARE | {key: 4}))
    with pytest.raises(CheckpointError, match="does not describe a causal language model"):
        read_model_shape(str(path))


def test_windows_by_layer(tmp_path: Path) -> None:
    gemma = config(tmp_path, model_type="gemma2", sliding_window=7, **SMALL)
    assert read_model_shape(gemma, "auto").windows == (7, None) * 3
    qwen = config(
        tmp_path, model_type="qwen2", use_sliding_window=True, sliding_window=7, max_window_layers=4, **SMALL
    )
    assert read_model_shape(qwen, "auto").windows == (None,) * 4 + (7,) * 2
    mistral = config(tmp_path, model_type="mistral", sliding_window=7, num_key_value_heads=2, **SMALL)
    assert read_model_shape(mistral, "auto").windows == (7,) * 6


def test_soft_caps_of_scores_and_eager_attention(tmp_path: Path) -> None:
    """Gemma 2 has a cap by default; the class of Gemma 3 does not use the key."""
    for kind, changes, capped in (
        ("gemma2", {}, True),
        ("gemma2", {"intermediate_size": 64}, True),
        ("gemma2", {"attn_logit_softcapping": None}, False),
        ("gpt_oss", {"num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1}, False),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, False),
        ("gemma3_text", {"attn_logit_softcapping": 50.0, "intermediate_size": 64}, False),
        ("vaultgemma", {"head_dim": 8}, True),
        ("llama", {}, False),
    ):
        path = config(tmp_path, model_type=kind, **SMALL | changes)
        shape = read_model_shape(path, "auto")
        assert shape.capped is capped, (kind, changes)
        assert shape.eager is (kind in {"gemma2", "vaultgemma", "gpt_oss"}), (kind, changes)


def test_a_token_passes_through_the_experts_it_is_sent_to(tmp_path: Path) -> None:
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 64}
    shape = read_model_shape(
        config(tmp_path, model_type="mixtral", num_key_value_heads=2, **experts, **SMALL), "auto"
    )
    one = 3 * 32 * 64
    assert shape.parameters - shape.active == 6 * 6 * one  # six layers, six idle experts in each


def test_old_names_of_sizes_are_understood(tmp_path: Path) -> None:
    shape = read_model_shape(
        config(tmp_path, model_type="gpt2", n_embd=32, n_head=4, n_layer=3, vocab_size=50), "auto"
    )
    assert (shape.width, shape.kv_heads, shape.head_dim, len(shape.windows)) == (32, 4, 8, 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "poem"}, "does not describe a causal language model"),
        ({"model_type": None}, "does not describe a causal language model"),
        ({"model_type": "t5"}, "does not describe a causal language model"),
        ({"model_type": "mamba"}, "memory cannot be planned"),
        ({"model_type": "deepseek_v3"}, "memory cannot be planned; .*latent attention"),
        ({"num_hidden_layers": MAX_LAYERS + 1}, "no usable num_hidden_layers; expected at most 1000"),
        ({"model_type": "gpt2", "n_layer": 10**9}, "no usable n_layer; expected at most 1000"),
        ({"text_config": {"num_hidden_layers": 1e9}}, "no usable num_hidden_layers; expected at most 1000"),
        ({"num_hidden_layers": "many"}, "no usable num_hidden_layers|does not describe a causal"),
        ({"num_hidden_layers": -3}, "no usable num_hidden_layers|does not describe a causal"),
        ({"num_attention_heads": 0}, "does not describe a causal|no usable num_attention_heads"),
        ({"hidden_size": 10**30}, "no usable hidden_size; expected a positive number of at most"),
        ({"hidden_size": -4}, "no usable hidden_size; expected a positive number"),
        ({"torch_dtype": "float64"}, "weights of a dtype that cannot be planned"),
        ({"model_type": "mistral", "sliding_window": 0}, "no usable sliding_window; expected a positive"),
        (QWEN_WINDOWS | {"sliding_window": "x"}, "no usable sliding_window"),
        (QWEN_WINDOWS | {"layer_types": ["full_attention"]}, "no usable layer_types; expected a list of 2"),
        (QWEN_WINDOWS | {"layer_types": 7}, "no usable layer_types; expected a list of 2"),
        (QWEN_WINDOWS | {"layer_types": [["x"], {}]}, "memory cannot be planned"),
        (QWEN_WINDOWS | {"layer_types": None, "max_window_layers": "x"}, "no usable max_window_layers"),
        ({"model_type": "gemma2", "sliding_window_pattern": 0}, "no usable sliding_window_pattern"),
        ({"num_attention_heads": 2**20}, "no usable head_dim; expected a positive number"),
        ({"torch_dtype": ["bfloat16"]}, "weights of a dtype that cannot be planned"),
        ({"model_type": "mixtral", "rope_parameters": 7}, "does not describe a causal language model"),
    ],
)
def test_what_cannot_be_planned_is_one_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = config(tmp_path, **(LLAMA | {"num_hidden_layers": 2} | changes))
    with pytest.raises(CheckpointError, match=said) as caught:
        read_model_shape(path, "auto")
    assert "\n" not in str(caught.value)


def test_what_is_not_a_config_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_model_shape(str(tmp_path), "auto")
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        read_model_shape(str(tmp_path), "auto")
