"""Families of language models as tiny configs: one row each, with what its classes call the usual sizes.

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


TEXT: dict[str, Family] = {
    "llama": plain(),
    "mistral": Family({"sliding_window": 16}, LIFTED),
    "ministral": Family(LAYERS, {"layer_types": [FULL, FULL]}),
    "ministral3": plain(head_dim=8),
    "mixtral": Family({"num_local_experts": 4, "sliding_window": 16}, LIFTED),
    "qwen2": Family(
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
        {"use_sliding_window": False, "layer_types": [FULL, FULL]},
    ),
    "qwen2_moe": plain(num_experts=4, shared_expert_intermediate_size=16, decoder_sparse_step=1, **EXPERTS),
    "qwen3": plain(head_dim=8),
    "qwen3_moe": plain(num_experts=4, head_dim=8, **EXPERTS),
    "qwen3_next": plain(num_experts=4, shared_expert_intermediate_size=16, **EXPERTS, **DELTA_NET),
    "qwen3_5_text": plain(**DELTA_NET),
    "gemma": plain(head_dim=8),
    "gemma2": Family({"head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8}, WIDER),
    "gemma3_text": Family({**LAYERS, "query_pre_attn_scalar": 8}, WIDER),
    "gemma3n_text": Family(
        {
            **LAYERS,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 64,
            "laurel_rank": 4,
            "num_kv_shared_layers": 0,
            "altup_num_inputs": 2,
            "intermediate_size": [48, 48],
            "activation_sparsity_pattern": [0.0, 0.0],
        },
        WIDER,
    ),
    "phi": plain(),
    "phi3": Family({"sliding_window": 16}, LIFTED),
    "phimoe": Family({"num_local_experts": 4, "sliding_window": 16}, LIFTED),
    "falcon": plain(new_decoder_architecture=True, num_kv_heads=2, ffn_hidden_size=48),
    "gpt_neox": plain(),
    "gptj": other_names(n_embd=32, n_layer=2, n_head=4, n_positions=128, rotary_dim=4, n_inner=48),
    "gpt2": other_names(n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "gpt_bigcode": other_names(n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "opt": plain(ffn_dim=48, word_embed_proj_dim=32),
    "bloom": other_names(hidden_size=32, n_layer=2, n_head=4, seq_length=128),
    "mpt": other_names(d_model=32, n_layers=2, n_heads=4, max_seq_len=128, expansion_ratio=2),
    "stablelm": plain(use_qkv_bias=True),
    "starcoder2": Family({"sliding_window": 16}, WIDER),
    "cohere": plain(),
    "cohere2": Family(LAYERS, WIDER),
    "olmo": plain(),
    "olmo2": plain(),
    "olmo3": Family(LAYERS, WIDER),
    "olmoe": plain(num_experts=4, num_experts_per_tok=2),
    "flex_olmo": plain(num_experts=4, num_experts_per_tok=2),
    "granite": plain(),
    "granitemoe": plain(num_local_experts=4, num_experts_per_tok=2),
    "granitemoeshared": plain(num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=16),
    "granitemoehybrid": plain(
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=16,
        mamba_n_heads=4,
        mamba_d_head=16,
        layer_types=["mamba", "attention"],
        position_embedding_type="rope",
        **MAMBA,
    ),
    "deepseek_v2": plain(**LATENT, topk_method="greedy"),
    "deepseek_v3": plain(**LATENT),
    "glm": plain(head_dim=8),
    "glm4": plain(head_dim=8),
    "glm4_moe": plain(
        head_dim=8, n_routed_experts=4, n_group=1, topk_group=1, first_k_dense_replace=1, **EXPERTS
    ),
    "internlm3": plain(head_dim=8),
    "exaone4": Family(LAYERS, WIDER),
    "smollm3": Family({"no_rope_layers": [1, 1]}, {"no_rope_layers": [1, 0]}),
    "ernie4_5": plain(head_dim=8),
    "ernie4_5_moe": plain(
        head_dim=8,
        moe_num_experts=4,
        moe_k=2,
        moe_layer_start_index=1,
        moe_intermediate_size=16,
        moe_num_shared_experts=1,
    ),
    "hunyuan_v1_dense": plain(head_dim=8),
    "nemotron": plain(head_dim=8),
    "gpt_oss": Family(
        {
            **LAYERS,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        WIDER,
    ),
    "llama4_text": Family(
        {
            "head_dim": 8,
            "attention_chunk_size": 16,
            "intermediate_size_mlp": 48,
            "moe_layers": [],
            "no_rope_layers": [1, 1],
            "layer_types": ["chunked_attention", FULL],
        },
        {"attention_chunk_size": 64},
    ),
    "llama4_text with experts": Family(
        {"head_dim": 8, "attention_chunk_size": 64, "num_local_experts": 4, "intermediate_size_mlp": 48}
    ),
    "persimmon": plain(),
    "seed_oss": plain(head_dim=8),
    "apertus": plain(),
    "arcee": plain(),
    "bamba": plain(attn_layer_indices=[1], mamba_n_heads=4, mamba_d_head=16, mamba_n_groups=1, **MAMBA),
    "jamba": plain(
        num_experts=4,
        num_experts_per_tok=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
        **MAMBA,
    ),
    "falcon_h1": plain(
        head_dim=8, mamba_n_heads=4, mamba_d_head=16, mamba_n_groups=1, mamba_d_ssm=64, **MAMBA
    ),
    "minimax": plain(
        head_dim=8, num_local_experts=4, num_experts_per_tok=2, block_size=16, layer_types=[LINEAR, FULL]
    ),
    "minimax_m2": plain(head_dim=8, num_local_experts=4, num_experts_per_tok=2, rotary_dim=8),
    "dots1": Family(
        {
            **LAYERS,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "n_shared_experts": 1,
            **EXPERTS,
        },
        WIDER,
    ),
    "helium": plain(head_dim=8),
    "lfm2": plain(layer_types=["conv", FULL], block_ff_dim=48, block_multiple_of=8),
    "bitnet": plain(),
    "hunyuan_v1_moe": plain(head_dim=8, num_experts=4, moe_topk=2),
    "nanochat": plain(),
    "modernbert-decoder": Family(
        {"local_attention": 16, "layer_types": [SLIDING, FULL]}, {"local_attention": 64, "sliding_window": 32}
    ),
    "vaultgemma": Family(LAYERS, WIDER),
    "cwm": Family(LAYERS, WIDER),
    "doge": plain(head_dim=8),
    "longcat_flash": plain(
        **{
            **LATENT,
            "num_layers": 1,
            "ffn_hidden_size": 48,
            "expert_ffn_hidden_size": 16,
            "moe_topk": 2,
            "zero_expert_num": 1,
        }
    ),
    "zamba2": plain(
        mamba_d_state=8,
        n_mamba_heads=4,
        mamba_headdim=16,
        mamba_ngroups=1,
        layers_block_type=["mamba", "hybrid"],
        num_mem_blocks=1,
        adapter_rank=4,
        use_mem_rope=True,
        num_key_value_heads=4,
    ),
    "codegen": other_names(
        n_embd=32, n_layer=2, n_head=4, n_positions=128, n_ctx=128, rotary_dim=4, n_inner=48
    ),
    "gpt_neo": other_names(
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        max_position_embeddings=128,
        intermediate_size=48,
        attention_types=[[["global", "local"], 1]],
        window_size=16,
    ),
    "biogpt": plain(),
    "dbrx": other_names(
        d_model=32,
        n_heads=4,
        n_layers=2,
        max_seq_len=128,
        attn_config={"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        ffn_config={"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
    ),
    "kimi_linear": plain(
        **{**LATENT, "layer_types": [LINEAR, FULL]},
        linear_attn_config={
            "kda_layers": [1],
            "full_attn_layers": [2],
            "num_heads": 4,
            "head_dim": 8,
            "short_conv_kernel_size": 4,
        },
    ),
    "nemotron_h": plain(
        layers_block_type=["mamba", "attention", "mlp"],
        num_hidden_layers=3,
        mamba_num_heads=4,
        mamba_head_dim=16,
        ssm_state_size=8,
        n_groups=1,
        head_dim=8,
    ),
    "qwen3_5_moe_text": plain(**DELTA_NET, **SHARED_EXPERT),
    "lfm2_moe": plain(layer_types=["conv", FULL], num_dense_layers=1, num_experts=4, **EXPERTS),
    "mamba": other_names(hidden_size=32, num_hidden_layers=2, state_size=8),
    "mamba with a length": other_names(
        hidden_size=32, num_hidden_layers=2, state_size=8, max_position_embeddings=128
    ),
    "mamba2": other_names(
        hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=8, head_dim=8, n_groups=2
    ),
    "bloom without a length": other_names(hidden_size=32, n_layer=2, n_head=4),
    "recurrent_gemma": other_names(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        lru_width=32,
        intermediate_size=96,
        attention_window_size=16,
    ),
}
VISION_LANGUAGE: dict[str, Family] = {
    "qwen2_vl": vision(
        "qwen2_vl_text", MROPE, vision={"embed_dim": 32, "hidden_size": 32, "depth": 1, "num_heads": 4}
    ),
    "qwen2_5_vl": vision(
        "qwen2_5_vl_text", MROPE, vision={"depth": 1, "num_heads": 4, "out_hidden_size": 32}
    ),
    "qwen3_vl": vision(
        "qwen3_vl_text",
        {**MROPE_INTERLEAVED, "head_dim": 8},
        vision={"depth": 1, "num_heads": 4, "out_hidden_size": 32, "deepstack_visual_indexes": [0]},
    ),
    "qwen3_vl_moe": vision(
        "qwen3_vl_moe_text",
        {**MROPE_INTERLEAVED, "head_dim": 8, "num_experts": 4, **EXPERTS},
        vision={"depth": 1, "num_heads": 4, "out_hidden_size": 32, "deepstack_visual_indexes": [0]},
    ),
    "qwen3_5": vision("qwen3_5_text", DELTA_NET, vision={"depth": 1, "num_heads": 4, "out_hidden_size": 32}),
    "llava": vision("llama", vision={"model_type": "clip_vision_model"}),
    "llava_next": vision(
        "mistral", {"sliding_window": 16}, window=LIFTED, vision={"model_type": "clip_vision_model"}
    ),
    "llava_onevision": vision("qwen2", vision={"model_type": "siglip_vision_model"}),
    "mllama": vision(
        "mllama_text_model",
        {"cross_attention_layers": [1], "num_hidden_layers": 3},
        vision={
            "num_global_layers": 1,
            "intermediate_layers_indices": [0],
            "vision_output_dim": 64,
            "attention_heads": 4,
        },
    ),
    "gemma3": vision(
        "gemma3_text",
        {**LAYERS, "query_pre_attn_scalar": 8},
        window=WIDER,
        vision={"model_type": "siglip_vision_model"},
        mm_tokens_per_image=4,
    ),
    "mistral3": vision("ministral3", {"head_dim": 8}, vision={"model_type": "pixtral"}),
    "internvl": vision("qwen2", vision={"image_size": [28, 28], "patch_size": [14, 14]}),
    "idefics3": vision("llama"),
    "smolvlm": vision("llama"),
    "paligemma": vision(
        "gemma", {"head_dim": 8}, vision={"model_type": "siglip_vision_model"}, projection_dim=32
    ),
    "glm4v": vision("glm4v_text", MROPE, vision={"depth": 1, "num_heads": 4, "out_hidden_size": 32}),
    "aya_vision": vision("cohere2", LAYERS, window=WIDER, vision={"model_type": "siglip_vision_model"}),
    "llama4": vision(
        "llama4_text",
        {"head_dim": 8, "attention_chunk_size": 16, "intermediate_size_mlp": 48, "moe_layers": []},
        vision={"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
    ),
    "exaone4_5": vision(
        "exaone4", LAYERS, window=WIDER, vision={"depth": 1, "num_heads": 4, "out_hidden_size": 32}
    ),
    "cohere2_vision": vision("cohere2", LAYERS, window=WIDER, vision={"model_type": "siglip_vision_model"}),
    "qwen3_5_moe": vision(
        "qwen3_5_moe_text",
        {**DELTA_NET, **SHARED_EXPERT},
        vision={"depth": 1, "num_heads": 4, "out_hidden_size": 32},
    ),
    "ernie4_5_vl_moe": vision(
        "ernie4_5_vl_moe_text",
        {
            "head_dim": 8,
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": [16, 16],
            "moe_num_shared_experts": 1,
            "mlp_layer_types": ["dense", "sparse"],
            **MROPE,
        },
        vision={"depth": 1, "num_heads": 4, "out_hidden_size": 32},
    ),
    "qwen2_5_omni_thinker": vision(
        "qwen2_5_omni_text",
        MROPE,
        vision={"embed_dim": 32, "depth": 1, "num_heads": 4, "out_hidden_size": 32},
        audio_config=AUDIO,
    ),
    "qwen3_omni_moe_thinker": vision(
        "qwen3_omni_moe_text",
        {**MROPE_INTERLEAVED, "head_dim": 8, "num_experts": 4, **EXPERTS},
        vision={"depth": 1, "num_heads": 4, "out_hidden_size": 32, "deepstack_visual_indexes": [0]},
        audio_config=AUDIO,
    ),
    "lfm2_vl": vision("lfm2", {"layer_types": ["conv", FULL], "block_ff_dim": 48, "block_multiple_of": 8}),
}
FAMILIES = {**TEXT, **VISION_LANGUAGE}
