"""Whether two classes of transformers compute the same language model, whatever other towers they have."""

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

from contextgraft.formats.model.pretrained import NO_REMOTE_CODE
from contextgraft.rope.model_class import quiet_transformers

# tiny values of the settings that classes share; what a class calls otherwise, it maps itself
SIZES = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 48, "moe_intermediate_size": 16,
    "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "num_experts": 4, "num_experts_per_tok": 2, "rms_norm_eps": 1e-6, "max_position_embeddings": 16,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "attention_bias": True,
}  # fmt: skip
ROPE = {
    "rope_type": "default", "rope_theta": 1e4,
    "original_max_position_embeddings": SIZES["max_position_embeddings"],
}  # fmt: skip
PARTIAL = "partial_rotary_factor"
TOKENS = 24  # more than positions: some classes scale attention beyond them
SIZE = 0.5  # of the weights: attention that is far from uniform
TOLERANCE = 1e-5


def language_model_type(model_type: str) -> str | None:
    """The model_type of the language model inside a class; None where transformers has no such class."""
    try:
        from transformers import CONFIG_MAPPING  # noqa: PLC0415 - optional

        config = CONFIG_MAPPING[model_type]()
        return str(config.get_text_config(decoder=True).model_type)
    except Exception:  # a class that is missing, or that needs values
        return None


def stands_alone(model_type: str | None) -> bool:
    """Whether a type is that of complete causal language models, not only of one inside another model."""
    from transformers.models.auto import modeling_auto  # noqa: PLC0415 - optional

    return model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


@lru_cache(maxsize=32)
def compute_alike(first: str, second: str) -> bool:
    """Whether the language models of two model_types have the same tensors and compute the same from them.

    Both are built from tiny configs and given the same weights and the same RoPE, which a graft has from its
    donor; False where a class cannot be built so.
    """
    if first == second:
        return True
    try:
        import torch  # noqa: PLC0415
        from transformers import CONFIG_MAPPING  # noqa: PLC0415

        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            configs = [CONFIG_MAPPING[model_type](**SIZES) for model_type in (first, second)]
            _set_one_rope(configs)
            models = [_tiny_model(config) for config in configs]
            tensors = models[0].state_dict().items()
            state = {name: torch.randn_like(tensor) * SIZE for name, tensor in tensors}
        for model in models:
            model.load_state_dict(state)  # raises where names or shapes differ
        tokens = torch.arange(3, 3 + TOKENS)[None]
        with torch.no_grad():
            left, right = (model(tokens, use_cache=False).last_hidden_state for model in models)
        return bool(torch.allclose(left, right, rtol=TOLERANCE, atol=TOLERANCE))
    except Exception:  # whatever a class raises: then nothing is known to be alike
        return False


def _set_one_rope(configs: Sequence[Any]) -> None:
    """The same RoPE in both configs, but for classes with one for each type of layer.

    Its sections, of multi-dimensional RoPE, fill half of the rotated dimensions.
    """
    ropes = [getattr(config, "rope_parameters", None) or {} for config in configs]
    partial = min(rope.get(PARTIAL, 1.0) for rope in ropes)
    quarter = int(SIZES["head_dim"] * partial) // 8
    sections = {"mrope_section": [quarter, quarter, 2 * quarter]}
    for config, rope in zip(configs, ropes, strict=True):
        if rope and not any(isinstance(value, dict) for value in rope.values()):
            fraction = {PARTIAL: partial} if partial < 1 else {}
            config.rope_parameters = {**rope, **ROPE, **sections, **fraction}


def _tiny_model(config: Any) -> Any:
    import torch  # noqa: PLC0415
    from transformers import AutoModel  # noqa: PLC0415
    from transformers.models.auto.modeling_auto import MODEL_MAPPING  # noqa: PLC0415

    if type(config) not in MODEL_MAPPING:
        return _inner_class(config)(config).float().eval()
    return AutoModel.from_config(config, dtype=torch.float32, **NO_REMOTE_CODE).eval()


def _inner_class(config: Any) -> Any:
    """The class of a language model that exists inside other models only, as that of Qwen2.5-Omni's thinker.

    It is next to the config's class, and the one text model that takes it.
    """
    name = type(config).__module__.replace("configuration_", "modeling_")
    members = vars(import_module(name)).values()
    (only,) = (
        member
        for member in members
        if getattr(member, "config_class", None) is type(config) and member.__name__.endswith("TextModel")
    )
    return only
