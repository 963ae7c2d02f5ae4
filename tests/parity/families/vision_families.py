"""Vision-language models as tiny configs: one row each; their language models are those that are grafted."""

from tests.parity.families.family import (
    AUDIO,
    DELTA_NET,
    EXPERTS,
    FULL,
    LAYERS,
    LIFTED,
    MROPE,
    MROPE_INTERLEAVED,
    SHARED_EXPERT,
    WIDER,
    Family,
    vision,
)

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
