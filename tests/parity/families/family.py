"""A family of language models as a tiny config, with what its classes call the usual sizes.

`window` are settings of attention that a donor of the family changes in addition to RoPE.
"""

from dataclasses import dataclass, field
from typing import Any

SLIDING, FULL, LINEAR = "sliding_attention", "full_attention", "linear_attention"
SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
EXPERTS: dict[str, Any] = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 16, "head_dim": 8, "n_routed_experts": 4, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1, **EXPERTS,
}  # fmt: skip
LAYERS = {"sliding_window": 16, "layer_types": [SLIDING, FULL], "head_dim": 8}
AUDIO: dict[str, Any] = {
    "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16,
    "num_mel_bins": 8, "output_dim": 32, "n_window": 4, "downsample_hidden_size": 8,
}  # fmt: skip
SHARED_EXPERT = {"num_experts": 4, "shared_expert_intermediate_size": 16, **EXPERTS}
MAMBA = {"mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2}
DELTA_NET = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "layer_types": [LINEAR, FULL], "head_dim": 8,
}  # fmt: skip
WIDER, LIFTED = {"sliding_window": 64}, {"sliding_window": None}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
MROPE_INTERLEAVED = {
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True
    }
}  # fmt: skip
SMALL = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@dataclass(frozen=True)
class Family:
    """A model class: values of the base's config; those of a donor's attention; sizes by other names.

    `text` is the model_type of the language model of a vision-language model, whose values `sizes` are;
    `vision` are then the values of its vision tower.
    """

    sizes: dict[str, Any] = field(default_factory=dict)
    window: dict[str, Any] = field(default_factory=dict)
    common: dict[str, Any] = field(default_factory=lambda: dict(SIZES))
    text: str = ""
    vision: dict[str, Any] = field(default_factory=dict)
    outer: dict[str, Any] = field(default_factory=dict)


def plain(**sizes: Any) -> Family:
    """A family whose long context is RoPE only."""
    return Family(sizes)


def other_names(**sizes: Any) -> Family:
    """A family with names of its own for all sizes."""
    return Family({**SMALL, **sizes}, common={})


def vision(text: str, sizes: dict[str, Any] | None = None, **outer: Any) -> Family:
    """A vision-language model with that language model; `vision` in `outer` are the tower's values."""
    tower = outer.pop("vision", {})
    window = outer.pop("window", {})
    return Family(sizes or {}, window, text=text, vision={**VISION, **tower}, outer=outer)
