"""What older versions of transformers compute otherwise, in whatever keys a config.json is written."""

from collections.abc import Iterator, Mapping
from typing import Any

from contextgraft.rope.text_section import text_section

SLIDING = "sliding_attention"
# classes whose masks (eager, SDPA) have one window for all layers in transformers 4.46
ONE_WINDOW = ("qwen2", "qwen2_moe")
# classes with one theta for all layers in transformers 4.57, and one by layer type in 5
ONE_THETA = ("olmo3",)
# classes with one RoPE for all layers in transformers 4.57, and one by layer type in 5
ONE_ROPE = ("modernbert-decoder",)
# classes that do not read `rope_scaling`, with the first version of transformers that does
UNSCALED = dict.fromkeys(("gemma", "gemma2", "glm", "mistral", "mixtral"), "4.57") | {"nemotron": "5"}
# classes that take every `rope_scaling` for Llama 3's in transformers 4.57
ONLY_LLAMA3 = ("llama4",)
# classes that scale RoPE in transformers 4.46, all by the same functions
SCALED_IN_4_46 = (
    "cohere", "falcon", "gpt_neox", "gpt_neox_japanese", "granite", "granitemoe", "llama", "mllama", "olmoe",
    "persimmon", "phi", "qwen2", "qwen2_moe", "qwen2_vl", "stablelm", "starcoder2",
)  # fmt: skip
# classes that older versions compute otherwise in every case
COMPUTED_OTHERWISE = {
    "mamba2": "transformers 4.46 computes Mamba-2 with several groups otherwise; use 4.57 or later",
    "recurrent_gemma": (
        "transformers 4 computes RecurrentGemma otherwise past its attention window; use transformers 5"
    ),
}


def older_reader_warnings(config: Mapping[str, Any]) -> Iterator[str]:
    """A warning for each setting that an older version of transformers has no key for."""
    section = text_section(config)
    model_type = str(section.get("model_type", config.get("model_type"))).removesuffix("_text")
    if model_type in ONE_WINDOW and _some_layers_slide(section):
        yield (
            "some of its layers have a sliding window, others do not: transformers 4.46 applies the window "
            "to all of them, and computes other logits past it; use transformers 4.57 or later"
        )
    scaling = section.get("rope_scaling") or section.get("rope_parameters") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind != "default" and not section.get("rope_scaling"):
        yield (
            f"its RoPE is of type {kind}, with parameters that transformers 4 has no keys for in this class: "
            "it computes other logits, without scaled RoPE; use transformers 5"
        )
    elif model_type in UNSCALED and kind != "default":
        yield (
            f"its RoPE is of type {kind}, which transformers before {UNSCALED[model_type]} does not scale in "
            f"this class: it computes other logits; use transformers {UNSCALED[model_type]} or later"
        )
    if model_type in ONLY_LLAMA3 and kind not in ("default", "llama3"):
        yield f"its RoPE is of type {kind}, with which transformers 4.57 cannot load this class; use 5"
    if model_type in ONE_THETA and len(_thetas(section)) > 1:
        yield (
            "its layer types have different values of theta: transformers 4.57 uses one for all, and "
            "computes other logits; use transformers 5"
        )
    if model_type in ONE_ROPE and len(set(map(str, _by_layer_type(section)))) > 1:
        yield (
            "its layer types have different RoPE settings: transformers 4.57 uses one for all, and computes "
            "other logits; use transformers 5"
        )
    unread = _unread_in_4_46(kind, section, scaling) if model_type in SCALED_IN_4_46 else ""
    if unread and section.get("rope_scaling"):
        yield (
            f"its RoPE is of type {kind} {unread} in this class: it computes other logits; use transformers "
            "4.57 or later"
        )
    if model_type in COMPUTED_OTHERWISE:
        yield COMPUTED_OTHERWISE[model_type]


def _some_layers_slide(section: Mapping[str, Any]) -> bool:
    if not section.get("use_sliding_window") or section.get("sliding_window") is None:
        return False
    types, layers = section.get("layer_types"), section.get("num_hidden_layers")
    if isinstance(types, list):
        return 0 < types.count(SLIDING) < len(types)
    first = section.get("max_window_layers")
    return isinstance(first, int) and isinstance(layers, int) and 0 < first < layers


def _unread_in_4_46(kind: str, section: Mapping[str, Any], scaling: Mapping[str, Any]) -> str:
    """What 4.46 reads otherwise of a type's parameters; empty if it reads everything that is there."""
    if kind == "longrope":
        return "of which transformers 4.46 applies the long factors at every length"
    original, length = scaling.get("original_max_position_embeddings"), section.get("max_position_embeddings")
    if kind != "yarn":
        return ""
    if original is not None and original != length:
        return f"with an original length of {original}, for which transformers 4.46 takes {length}"
    if scaling.get("mscale") and scaling.get("mscale_all_dim") and scaling.get("attention_factor") is None:
        return "with mscale and mscale_all_dim, which transformers 4.46 ignores"
    return "with truncate: false, which transformers 4.46 ignores" if scaling.get("truncate") is False else ""


def _thetas(section: Mapping[str, Any]) -> set[Any]:
    return {str(settings.get("rope_theta")) for settings in _by_layer_type(section)}


def _by_layer_type(section: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    parameters = section.get("rope_parameters") or {}
    return [value for value in parameters.values() if isinstance(value, Mapping)]
