"""Attention settings: what a donor changed is found with its class's defaults, and written or refused."""

import re
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from contextgraft.errors import InputError, MismatchError
from contextgraft.rope import travelling
from contextgraft.rope.settings import POSITIONS, read
from contextgraft.rope.travelling import Setting, apply_settings, compare_configs

SMALL: dict[str, Any] = {
    "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 128
}  # fmt: skip
MISTRAL = {"model_type": "mistral", **SMALL}
QWEN2 = {"model_type": "qwen2", **SMALL}
GEMMA3 = {"model_type": "gemma3_text", **SMALL}
LAYERS = ["sliding_attention", "full_attention"]
# fields of config classes whose names look as if they decided about positions, and which do not
NOT_POSITIONS = (
    "chunk_size_feed_forward|.*dropout.*|qk_(no)?rope_head_dim|m[tl]p_.*|num_.*|swa_.*|global_config|"
    "chunk_size.*|.*_chunk_size|chunkwise_kernel|lsh_.*|local_(attn|num)_.*|mask_.*|max_(source|target).*|"
    "attn_layers|max_(patch_length|inference_chunksize)|position_bias.*|prompt_length|"
    "same_length|sequence_kernel|time_step_floor|linear_dt_init_floor|full_attn_.*_factor|.*bidirectional.*|"
    "use_learned_position_embeddings|prefix_.*|attn_type|.*_length"
)


def changed(base: dict[str, Any], donor: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {key: (one.base, one.donor) for key, one in compare_configs(base, donor).travelling.items()}


def test_a_missing_key_has_the_default_of_its_class() -> None:
    assert changed(MISTRAL | {"sliding_window": 16}, MISTRAL) == {"sliding_window": (16, 4096)}
    assert changed(MISTRAL | {"sliding_window": 4096}, MISTRAL) == {}
    assert changed(MISTRAL | {"sliding_window": 16}, MISTRAL | {"sliding_window": None}) == {
        "sliding_window": (16, None)
    }


def test_null_is_not_a_missing_key() -> None:
    """Without the key, Mistral has a window; null is none."""
    assert changed(MISTRAL, MISTRAL | {"sliding_window": None}) == {"sliding_window": (4096, None)}
    assert changed(MISTRAL | {"sliding_window": None}, MISTRAL) == {"sliding_window": (None, 4096)}


def test_derived_settings_travel_with_their_origin() -> None:
    windows = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
    difference = changed(QWEN2, QWEN2 | windows)
    assert difference["layer_types"] == (["full_attention"] * 2, [*reversed(LAYERS)])
    assert difference["sliding_window"] == (None, 16)


def test_the_same_layers_in_an_old_and_a_new_form_are_no_difference() -> None:
    assert changed(GEMMA3 | {"sliding_window_pattern": 2}, GEMMA3 | {"layer_types": LAYERS}) == {}


def test_what_other_programs_read_travels() -> None:
    dual = {"dual_chunk_attention_config": {"chunk_size": 64}}
    assert changed(QWEN2, QWEN2 | dual) == {"dual_chunk_attention_config": (None, {"chunk_size": 64})}


def test_other_differences_of_the_forward_pass_are_shown_and_bookkeeping_is_not() -> None:
    donor = QWEN2 | {"rms_norm_eps": 1e-3, "use_cache": False, "eos_token_id": 7, "unknown": 1}
    difference = compare_configs(QWEN2, donor)
    assert difference.travelling == {}
    assert difference.others == {"rms_norm_eps": Setting(1e-6, 1e-3)}


def test_settings_in_text_config() -> None:
    base = {"model_type": "llama4", "text_config": {**SMALL, "attention_chunk_size": 16}}
    donor = {"model_type": "llama4", "text_config": {**SMALL, "attention_chunk_size": 64}}
    values = compare_configs(base, donor).travelling
    assert apply_settings(base, values) == donor


def test_what_the_class_reads_otherwise_is_refused() -> None:
    with pytest.raises(MismatchError, match="sliding_window of the donor cannot be written"):
        apply_settings(QWEN2 | {"use_sliding_window": False}, {"sliding_window": Setting(None, 16)})


def test_json() -> None:
    values = compare_configs(QWEN2, QWEN2 | {"use_sliding_window": True}).travelling
    assert travelling.from_json(travelling.to_json(values)) == values
    wrong: list[Any] = [[], {"a": 1}, {"a": {"donor": 1}}]
    for malformed in wrong:
        with pytest.raises(InputError, match="malformed"):
            travelling.from_json(malformed)


def test_the_list_has_every_field_about_positions_of_a_causal_language_model() -> None:
    words = re.compile("rope|rotary|position|window|sliding|layer_types|chunk|alibi|attn_layer|local_|floor")
    known = {*travelling.TRAVELLING, *travelling.ELSEWHERE, *POSITIONS}
    missing = set()
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        fields = getattr(CONFIG_MAPPING[name], "__dataclass_fields__", {})
        missing |= {field for field in fields if words.search(field)} - known
    assert {name for name in missing if not re.fullmatch(NOT_POSITIONS, name)} == set()


def test_the_list_has_what_scales_the_scores_of_attention_in_any_class() -> None:
    words = re.compile(r"(attn|attention|qk|key|query).*(scal|multiplier|cap)|scale_att|index_topk")
    # of linear attention and in front of and behind attention: the scores do not depend on them
    others = re.compile(r"(linear|full)_attn_.*_factor|attention_(in|out)_multiplier|.*softmax_in_fp32")
    missing = set()
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        fields = getattr(CONFIG_MAPPING[name], "__dataclass_fields__", {})
        missing |= {field for field in fields if words.search(field)} - {*travelling.TRAVELLING}
    assert {name for name in missing if not others.fullmatch(name)} == set()


@pytest.mark.parametrize(
    ("model_type", "name", "value"),
    [
        ("gemma2", "attn_logit_softcapping", 3.0), ("gemma2", "query_pre_attn_scalar", 3),
        ("gemma3_text", "query_pre_attn_scalar", 3), ("granite", "attention_multiplier", 3.0),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True), ("falcon_h1", "key_multiplier", 3.0),
    ],
)  # fmt: skip
def test_the_scale_of_scores_is_applied(model_type: str, name: str, value: Any) -> None:
    base, donor = {"model_type": model_type}, {"model_type": model_type, name: value}
    values = compare_configs(base, donor).travelling
    assert values.keys() == {name}
    assert apply_settings(base, values) == donor


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("cohere", "logit_scale"), ("cohere2", "logit_scale"), ("gemma2", "final_logit_softcapping"),
        ("granite", "logits_scaling"), ("granite", "residual_multiplier"),
        ("granite", "embedding_multiplier"), ("granitemoe", "residual_multiplier"),
        ("falcon_h1", "lm_head_multiplier"),
        ("minicpm3", "scale_depth"), ("olmoe", "clip_qkv"), ("llama", "hidden_act"),
        ("phimoe", "router_jitter_noise"),
    ],
)  # fmt: skip
def test_the_scale_of_anything_else_is_shown(model_type: str, name: str) -> None:
    value = {"hidden_act": "gelu"}.get(name, 3.0)
    difference = compare_configs({"model_type": model_type}, {"model_type": model_type, name: value})
    assert difference.travelling == {}
    assert difference.others.keys() == {name}


def test_settings_of_code_in_a_repository_travel_or_are_shown() -> None:
    qwen = {"model_type": "qwen", **SMALL}
    difference = compare_configs(qwen, qwen | {"use_dynamic_ntk": True, "use_logn_attn": True, "fp16": True})
    assert difference.travelling.keys() == {"use_dynamic_ntk", "use_logn_attn"}
    assert difference.others == {"fp16": Setting(None, True)}


@pytest.mark.parametrize(
    "name",
    ["llama", "mistral", "mixtral", "cohere", "smollm3", "ernie4_5", "olmo3", "gpt_neox", "gemma3_text"],
)
def test_missing_theta_and_length_are_those_of_the_class(name: str) -> None:
    default = CONFIG_MAPPING[name]()
    received = read({"model_type": name})
    parameters = default.rope_parameters
    assert received.max_positions == default.max_position_embeddings
    assert received.theta == parameters.get("full_attention", parameters)["rope_theta"]
    assert received.by_layer_type == (parameters if "full_attention" in parameters else {})


@pytest.mark.parametrize(
    ("scaling", "context"),
    [
        (None, 128),
        ({"type": "linear", "factor": 8.0}, 1024),
        ({"rope_type": "dynamic", "factor": 2.0}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "yarn", "factor": 4.0}, 512),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4}, 128),
        ({"rope_type": "longrope", "factor": 4.0, "short_factor": [1], "long_factor": [2]}, 128),
    ],
)
def test_the_context_counts_factors_as_vllm_does(scaling: dict[str, Any] | None, context: int) -> None:
    config = {"rope_theta": 1e4, "max_position_embeddings": 128, "rope_scaling": scaling}
    assert read(config).context == context


@pytest.mark.parametrize(
    ("model_type", "window", "types"),
    [
        ("mistral", 0, None), ("mistral", -1, None), ("gemma2", None, None), ("cohere2", None, None),
        ("olmo3", None, ["sliding_attention", "full_attention"]),
    ],
)  # fmt: skip
def test_a_window_without_masks_is_refused(model_type: str, window: int | None, types: Any) -> None:
    """Transformers reads the config and fails at the first token; it was merged."""
    sizes = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "head_dim": 8, "num_key_value_heads": 2, "vocab_size": 32, "max_position_embeddings": 64,
        "pad_token_id": 0,
    }  # fmt: skip
    base = {"model_type": model_type, **sizes, "sliding_window": 8}
    donor = {**base, "sliding_window": window, **({"layer_types": types} if types else {})}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**donor))
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        model(torch.arange(12)[None])
    with pytest.raises(InputError, match=r"donor/config\.json: sliding_window cannot be used.*received"):
        compare_configs(base, donor, "donor")
    wider = {**base, "sliding_window": 16}
    assert compare_configs(base, wider).travelling["sliding_window"].donor == 16


def test_layer_types_that_a_class_does_not_read_need_no_window() -> None:
    base = {"model_type": "llama", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    donor = {**base, "layer_types": ["sliding_attention", "full_attention"]}
    assert "layer_types" in compare_configs(base, donor).travelling


def test_a_window_that_the_class_computes_from_another_setting_travels() -> None:
    base = {"model_type": "modernbert-decoder", "layer_types": ["sliding_attention"], "num_hidden_layers": 1}
    sides = [{**base, "local_attention": 2 * window, "sliding_window": window} for window in (8, 32)]
    travelling = compare_configs(sides[0], sides[1]).travelling
    assert travelling["local_attention"].donor == 64
    assert travelling["sliding_window"].donor == 32
