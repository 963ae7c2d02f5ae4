"""What a tensor's name means, by Llama's names and by those of other architectures."""

from pathlib import Path

import pytest

from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.formats.tensor_names import (
    TensorRole,
    comparable,
    input_embedding,
    kind_order,
    layer_of,
    output_embedding,
    parameter_group,
    rotary_heads,
    short_kind,
    tensor_role,
)


@pytest.mark.parametrize(
    ("name", "shape", "role"),
    [
        ("model.layers.0.mlp.up_proj.weight", (8, 4), TensorRole.LINEAR),
        ("gpt_neox.layers.11.attention.dense.weight", (4, 4), TensorRole.LINEAR),
        ("model.layers.0.input_layernorm.weight", (4,), TensorRole.DENSE),
        ("model.embed_tokens.weight", (9, 4), TensorRole.INPUT),
        ("gpt_neox.embed_in.weight", (9, 4), TensorRole.INPUT),
        ("lm_head.weight", (9, 4), TensorRole.OUTPUT),
        ("embed_out.weight", (9, 4), TensorRole.OUTPUT),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", (4,), TensorRole.IGNORED),
        ("model.layers.0.self_attn.rotary_emb.cos_cached", (1, 1, 16, 4), TensorRole.IGNORED),
        ("h.0.attn.bias", (1, 1, 16, 16), TensorRole.IGNORED),  # as in GPT-2's repository
        ("h.0.attn.masked_bias", (), TensorRole.IGNORED),
        ("gpt_neox.layers.0.attention.bias", (1, 1, 16, 16), TensorRole.IGNORED),
        ("gpt_neox.layers.0.attention.dense.bias", (4,), TensorRole.DENSE),
        ("model.layers.0.self_attn.A_log", (1, 1, 4, 1), TensorRole.DENSE),  # Kimi Linear
        ("model.layers.0.self_attn.A_log", (1, 4, 1), TensorRole.DENSE),
        ("model.layers.0.mlp.gate.weight", (1, 4), TensorRole.LINEAR),
    ],
)
def test_a_name_and_a_shape_give_the_role(name: str, shape: tuple[int, ...], role: TensorRole) -> None:
    assert tensor_role(TensorInfo(name, "F32", shape, "", 0, 0), Path()) is role


def test_embeddings_are_found_by_name() -> None:
    tied = ["model.embed_tokens.weight", "model.norm.weight"]
    untied = ["embed_out.weight", "gpt_neox.embed_in.weight"]
    assert (input_embedding(tied), output_embedding(tied)) == ("model.embed_tokens.weight", None)
    assert (input_embedding(untied), output_embedding(untied)) == tuple(reversed(untied))


def test_layers_and_kinds() -> None:
    assert layer_of("model.layers.17.mlp.up_proj.weight") == 17
    assert layer_of("model.norm.weight") is None
    kinds = sorted(map(short_kind, ["mlp.down_proj", "dense", "a.v_proj", "a.q_proj"]), key=kind_order)
    assert kinds == ["q", "v", "down", "dense"]


def test_query_and_key_have_rotary_heads() -> None:
    config = {"num_attention_heads": 4, "num_key_value_heads": 2}
    names = [f"model.layers.0.self_attn.{kind}_proj.weight" for kind in "qkv"]
    assert [rotary_heads(name, config) for name in names] == [4, 2, None]


def test_parameters_belong_to_the_groups_of_a_recipe() -> None:
    groups = [
        parameter_group(name, 2) for name in ("model.embed_tokens.weight", "lm_head.weight", "x.weight")
    ]
    assert groups == ["embeddings", "embeddings", "linear"]
    assert parameter_group("model.norm.weight", 1) == "norms"


@pytest.mark.parametrize(
    "prefix", ["model", "transformer", "gpt_neox", "gpt_neox_japanese", "biogpt", "rwkv", "backbone"]
)
def test_a_model_saved_without_its_head_lacks_the_prefix(prefix: str) -> None:
    """The base_model_prefix of transformers' classes."""
    assert comparable(f"{prefix}.layers.0.fc1.weight") == comparable("layers.0.fc1.weight")
