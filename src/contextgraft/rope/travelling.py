"""The position and attention settings that a long context consists of in addition to RoPE.

A donor that was trained without a sliding window, or with attention in chunks, computes something else than
its base even where all weights are equal. An adapter has no place for these settings: they are recorded next
to it and written into the target's config.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from contextgraft.errors import InputError, MismatchError
from contextgraft.rope.model_class import resolve
from contextgraft.rope.settings import BY_LAYER_TYPE, PARTIAL, POSITIONS, THETA
from contextgraft.rope.text_section import replace_text_section, text_section

# which positions a token attends to, how positions enter and how scores of attention are scaled, in any class
# of transformers or vLLM, and in code of repositories
TRAVELLING = (
    "sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "sliding_window_pattern",
    "sliding_window_size", "window_size", "attention_window", "attention_window_size", "attention_types",
    "local_attention", "local_attention_window_len", "local_layer_ids", "keep_window_size",
    "global_attn_every_n_layers", "prefix_dense_sliding_window_pattern", "full_attn_idxs",
    "attn_layer_indices", "attn_layer_period", "attn_layer_offset", "attention_type", "attention_chunk_size",
    "dual_chunk_attention_config", "sparse_attention_config", "no_rope_layers", "no_rope_layer_interval",
    "nope_layer_interval", "original_max_position_embeddings", "rope_interleave", "layer_rope_theta",
    "use_mem_rope", "rotary_dim", "rotary_value", "rotary", "alibi", "attn_config", "position_embedding_type",
    "attn_temperature_tuning", "floor_scale", "attn_scale", "log_scaling_n_floor", "log_scaling_alpha",
    "use_bidirectional_attention", "attention_layers", "index_topk", "index_topk_blocks",
    "index_local_blocks", "use_long_context", "query_pre_attn_scalar", "attn_logit_softcapping",
    "attention_multiplier", "attention_value_scale", "key_multiplier", "qk_scale_factor",
    "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "use_dynamic_ntk", "dynamic_ntk_alpha",
    "use_logn_attn", "rope_ratio", "rope_base", "rotary_base", "rotary_emb_scale_base", "alibi_bias_max",
    "use_rope",
)  # fmt: skip
WINDOW_KEYS = ("sliding_window", "layer_types")
WINDOWS = frozenset(WINDOW_KEYS)
SLIDING = "sliding_attention"
# settings from which the class derives another one, which then says the same
DERIVED = {
    "sliding_window_pattern": "layer_types",
    "no_rope_layer_interval": "no_rope_layers",
    "prefix_dense_sliding_window_pattern": "layer_types",
    "global_attn_every_n_layers": "layer_types",
    "layer_rope_theta": "rope_parameters",
}
# what RoPE settings say already, and other checks compare
ELSEWHERE = frozenset(
    (*THETA, *PARTIAL, *POSITIONS, *BY_LAYER_TYPE, "rope_scaling", "rope_parameters", "rope_type")
).difference(TRAVELLING) | {
    "model_type", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings", "quantization_config",
}  # fmt: skip
# what does not enter a forward pass without sampling or training
NO_EFFECT = (
    "architectures", "_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype",
    "auto_map", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "id2label",
    "label2id", "problem_type", "num_labels", "return_dict", "output_attentions", "output_hidden_states",
    "initializer_range", "initializer_factor", "init_std", "router_aux_loss_coef", "aux_loss_alpha",
    "seq_aux", "output_router_logits", "router_z_loss_coef", "z_loss_coefficient",
    "is_decoder", "is_encoder_decoder", "pretraining_tp", "max_length", "chunk_size_feed_forward",
    "task_specific_params", "temperature", "top_p", "top_k", "do_sample", "repetition_penalty",
    "finetuning_task", "attn_implementation", "_attn_implementation", "use_kernels",
    "_attn_implementation_autoset", "_flash_attn_2_enabled", "unsloth_fixed", "unsloth_version",
    "num_logits_to_keep", "ep_size", "save_step", "training", "vision_config", "audio_config",
    "num_nextn_predict_layers",
)  # fmt: skip
DROPOUT = ("dropout", "pdrop", "dropout_prob")


@dataclass(frozen=True)
class Setting:
    """One setting in two configs; `present` is whether the second has it at all."""

    base: Any
    donor: Any
    present: bool = True


@dataclass(frozen=True)
class ConfigDifference:
    """What a donor's config changes against its base's.

    `travelling` are position and attention settings, which a graft takes over; `others` change the forward
    pass, too, and cannot be taken over.
    """

    travelling: Mapping[str, Setting]
    others: Mapping[str, Setting]


def compare_configs(
    base: Mapping[str, Any], donor: Mapping[str, Any], where: object = None
) -> ConfigDifference:
    """Differences of two configs, with the defaults of transformers' class where one of them lacks a key.

    Raises InputError for a config that transformers refuses, and for a sliding window of the donor, whose
    folder `where` is, with which no mask can be made.
    """
    travelling, others = _compare(base, donor)
    if not WINDOWS.isdisjoint(travelling):
        _check_window(donor, where)
    return ConfigDifference(travelling, others)


def apply_settings(config: Mapping[str, Any], values: Mapping[str, Setting]) -> dict[str, Any]:
    """A copy of the config in which the settings have the donor's values.

    MismatchError where transformers' class of the config reads other values than were written.
    """
    if not values:
        return dict(config)
    section = {key: value for key, value in text_section(config).items() if key not in values}
    section |= {key: setting.donor for key, setting in values.items() if setting.present}
    changed = replace_text_section(config, section)
    resolved = resolve(changed)
    if resolved is None:
        return changed
    wrong = [
        key
        for key, setting in values.items()
        if setting.present and key in resolved.fields and resolved.values.get(key) != setting.donor
    ]
    if wrong:
        key = wrong[0]
        raise MismatchError(
            f"{key} of the donor cannot be written into config.json",
            expected=f"{values[key].donor}",
            received=f"{resolved.values.get(key)} as {resolved.name} of transformers reads it",
            remedy="take all of the donor's settings with --rope-from DONOR, keep the target's with "
            "--keep-rope, or choose another target",
        )
    return changed


def own_values(config: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The values of settings in a config, with the defaults of its class; None where it has none."""
    section = text_section(config)
    values = _values(config, section)
    return {name: values.get(name, section.get(name)) for name in names}


def stated_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """The position and attention settings that a config has itself, without the defaults of its class."""
    section = text_section(config)
    return {key: section[key] for key in sorted(TRAVELLING) if key in section}


class OwnSetting(NamedTuple):
    """A setting that a fine-tune changed: the base's value and the fine-tune's own."""

    base: Any
    own: Any


def own_changes(config: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, OwnSetting]:
    """The position and attention settings that a fine-tune's config changes against its base.

    `base` are the `stated_values` of the base's config. Imports transformers only where something differs.
    """
    if stated_values(config) == base:
        return {}
    rest = {key: value for key, value in text_section(config).items() if key not in TRAVELLING}
    changed = compare_configs(replace_text_section(config, {**rest, **base}), config).travelling
    return {name: OwnSetting(setting.base, setting.donor) for name, setting in changed.items()}


def to_json(values: Mapping[str, Setting]) -> dict[str, Any]:
    """Settings as plain JSON values: {name: {"base": value, "donor": value}}, "donor" if it has one."""
    return {
        key: {"base": setting.base} | ({"donor": setting.donor} if setting.present else {})
        for key, setting in sorted(values.items())
    }


def from_json(data: Any) -> dict[str, Setting]:
    """The settings from the output of `to_json`; InputError if it is malformed."""
    whole = isinstance(data, Mapping) and all(
        isinstance(value, Mapping) and "base" in value and set(value) <= {"base", "donor"}
        for value in data.values()
    )
    if not whole:
        raise InputError(
            "malformed attention settings", expected='{name: {"base": ..., "donor": ...}}', received=data
        )
    return {key: Setting(value["base"], value.get("donor"), "donor" in value) for key, value in data.items()}


def _check_window(config: Mapping[str, Any], where: object) -> None:
    """Raise InputError for a window below 1, or none where the class has layers that slide.

    transformers reads such a config, and fails when it makes the masks.
    """
    resolved = resolve(config)
    if resolved is None or WINDOW_KEYS[0] not in resolved.fields:  # ModernBERT's is half of local_attention
        return
    window, types = (resolved.values.get(key) for key in WINDOW_KEYS)
    slides = WINDOW_KEYS[1] in resolved.fields and SLIDING in (types or ())
    if (isinstance(window, int) and window < 1) or (window is None and slides):
        raise InputError(
            f"{'' if where is None else f'{where}/'}config.json: sliding_window cannot be used",
            expected="a positive number of tokens, or layer_types without sliding_attention" if slides
            else "a positive number of tokens, or null",
            received=f"{window} as {resolved.name} of transformers reads it",
        )  # fmt: skip


def _compare(
    base: Mapping[str, Any], donor: Mapping[str, Any]
) -> tuple[dict[str, Setting], dict[str, Setting]]:
    sections = text_section(base), text_section(donor)
    # a key that one side lacks has a default there, which null may not be
    if all(_ignored(key) or _same(key, *sections) for key in {**sections[0], **sections[1]}):
        return {}, {}
    sides = [_values(config, section) for config, section in zip((base, donor), sections, strict=True)]
    differing = [key for key in sorted({**sides[0], **sides[1]}) if _differ(key, *sides)]
    settings = {key: Setting(sides[0].get(key), sides[1].get(key), key in sides[1]) for key in differing}
    travelling = {
        key: setting for key, setting in settings.items() if key in TRAVELLING and not _derived(key, *sides)
    }
    return travelling, {key: setting for key, setting in settings.items() if key not in TRAVELLING}


def _values(config: Mapping[str, Any], section: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values that transformers' class reads, and what of the declared list other programs read."""
    resolved = resolve(config)
    if resolved is None:
        return section
    return {key: value for key, value in section.items() if key in TRAVELLING} | {
        key: resolved.values.get(key) for key in resolved.fields
    }


def _differ(key: str, base: Mapping[str, Any], donor: Mapping[str, Any]) -> bool:
    return not _ignored(key) and base.get(key) != donor.get(key)


def _same(key: str, base: Mapping[str, Any], donor: Mapping[str, Any]) -> bool:
    return bool(base.get(key, ...) == donor.get(key, ...))


def _ignored(key: str) -> bool:
    return key in ELSEWHERE or key in NO_EFFECT or key.endswith(DROPOUT)


def _derived(key: str, base: Mapping[str, Any], donor: Mapping[str, Any]) -> bool:
    """Whether one side lacks a setting from which both have derived another."""
    return DERIVED.get(key, "") in base.keys() & donor.keys() and not (key in base and key in donor)
