"""RoPE settings written into a config.json in the keys that each version of transformers reads.

transformers 5 reads `rope_parameters`, and `rope_scaling` in preference to it where both are there; versions
before 5 read `rope_theta` and `rope_scaling`, whose keys differ by model class.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from contextgraft.errors import InputError
from contextgraft.rope.model_class import ClassConfig, has_class, resolve
from contextgraft.rope.settings import (
    ORIGINAL,
    PARTIAL,
    POSITIONS,
    THETA,
    RopeSettings,
    is_plain_class,
    read_any_length,
)
from contextgraft.rope.text_section import replace_text_section, text_section

LOCAL_THETA = "rope_local_base_freq"  # theta of sliding layers before transformers 5 (Gemma 3)
# classes of transformers 4 that read the type from `type`, and refuse every key beyond these
STRICT_KEYS = {
    "phi3": ("short_factor", "long_factor"),
    "phi4_multimodal": ("short_factor", "long_factor"),
    "olmo": ("factor",),
    "olmo2": ("factor",),
    "open-llama": ("factor",),
    "fuyu": ("factor",),
    "chameleon": ("factor",),
}
# scaled where the key is missing, in transformers 4.57: null is needed for the default type
SCALED_BY_DEFAULT = ("apertus", "gpt_oss")
OTHER_SETTINGS = "keep the target's settings with --keep-rope, or name other ones with --rope-from"
# other names of theta and the rotated fraction before transformers 5
OLD_NAMES = dict.fromkeys(("gpt_neox", "gpt_neox_japanese"), ("rotary_emb_base", "rotary_pct"))


def apply_rope(config: Mapping[str, Any], settings: RopeSettings) -> dict[str, Any]:
    """A copy of the config with these RoPE settings in all forms, and no others.

    transformers' class of this model must read the settings back; if no form does, InputError. Every name of
    the length that is there follows, and none becomes shorter. Where neither has a length, a config that has
    these settings already stays as it is.
    """
    if not settings.max_positions and read_any_length(config) == settings:
        return dict(config)
    candidates = (replace_text_section(config, section) for section in _sections(config, settings))
    first = next(candidates)
    if _is_plain(config, settings):
        return first
    _check_type(first, settings)
    refusal: InputError | None = None
    received = None
    for changed in (first, *candidates):
        try:
            resolved = resolve(changed)
        except InputError as error:  # the class reads other keys in the older form
            refusal = error
            continue
        if resolved is None or _reads(resolved, settings):
            return changed
        received = f"{resolved.values.get('rope_parameters')} as transformers reads it"
    if refusal is not None and received is None:
        raise refusal
    raise InputError(
        "the RoPE settings cannot be written into config.json",
        expected=_parameters(settings),
        received=received,
        remedy=OTHER_SETTINGS,
    )


def _check_type(config: Mapping[str, Any], settings: RopeSettings) -> None:
    """Raise InputError for a type of RoPE that transformers accepts in a config and cannot compute.

    Code of repositories has others, such as "ntk".
    """
    if settings.by_layer_type or settings.rope_type == "default" or not has_class(config):
        return
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: PLC0415 - optional

    if settings.rope_type not in ROPE_INIT_FUNCTIONS:
        raise InputError(
            f"RoPE of type {settings.rope_type!r} is not one that transformers computes",
            expected=", ".join(ROPE_INIT_FUNCTIONS),
            remedy=OTHER_SETTINGS,
        )


def reads_back(config: Mapping[str, Any], settings: RopeSettings) -> bool:
    """Whether transformers reads these settings from the config; True if transformers has no class."""
    if _is_plain(config, settings):
        return True
    resolved = resolve(config)
    return resolved is None or _reads(resolved, settings)


def _is_plain(config: Mapping[str, Any], settings: RopeSettings) -> bool:
    """Whether settings of the default type are read from the same keys by every version of the class."""
    is_default = settings.rope_type == "default" and not settings.by_layer_type
    return is_default and is_plain_class(config)


def _sections(config: Mapping[str, Any], settings: RopeSettings) -> Iterator[dict[str, Any]]:
    """The language model's settings: with keys for old versions of transformers, then without."""
    section = text_section(config)
    model_type = str(section.get("model_type", config.get("model_type"))).removesuffix("_text")
    gone = ("rope_scaling",) if settings.by_layer_type else ("rope_scaling", *PARTIAL)
    kept = {key: value for key, value in section.items() if key not in gone}
    fraction = _fraction(config, settings)
    parameters = _parameters(settings) | ({} if fraction is None else {PARTIAL[0]: fraction})
    changed = kept | _lengths(section, settings) | {"rope_parameters": parameters}
    old_names = (THETA[0], OLD_NAMES.get(model_type, THETA)[0])
    thetas = dict.fromkeys((*old_names, *(key for key in THETA if key in section)), settings.theta)
    scaling = _rope_scaling(model_type, settings, known=settings.rope_type == "default" or has_class(config))
    old = thetas | _partial(section, fraction, model_type) | _local_theta(section, settings)
    if settings.rope_type == "longrope" and ORIGINAL in settings.extra:
        old[ORIGINAL] = settings.extra[ORIGINAL]
    written = scaling is not None or model_type in SCALED_BY_DEFAULT
    yield changed | ({"rope_scaling": scaling} if written else {}) | old
    yield changed | old
    yield {key: value for key, value in changed.items() if key not in (*THETA, *PARTIAL, LOCAL_THETA)}


def _parameters(settings: RopeSettings) -> dict[str, Any]:
    if settings.by_layer_type:
        return dict(settings.by_layer_type)
    return {"rope_theta": settings.theta, "rope_type": settings.rope_type, **settings.extra}


def _rope_scaling(model_type: str, settings: RopeSettings, *, known: bool) -> dict[str, Any] | None:
    """The older form; `known`: transformers has the class, and reads either key of the type."""
    rest = {key: value for key, value in settings.extra.items() if key not in PARTIAL}
    if settings.rope_type == "default":
        # multi-dimensional RoPE: old readers look for its sections here, under the type's older name too
        return {"rope_type": "default", "type": "default", **rest} if rest else None
    if model_type in STRICT_KEYS:
        return {"type": settings.rope_type} | {
            key: rest[key] for key in STRICT_KEYS[model_type] if key in rest
        }
    return {"rope_type" if known else settings.type_key: settings.rope_type, **rest}


def _lengths(section: Mapping[str, Any], settings: RopeSettings) -> dict[str, int]:
    """The number of positions under every name that is there, and `max_length` of generation."""
    lengths = {POSITIONS[0]: settings.max_positions} if settings.max_positions else {}
    for key in POSITIONS[1:]:
        if isinstance(section.get(key), int):
            lengths[key] = max(section[key], settings.max_positions)
    if isinstance(section.get("max_length"), int):
        lengths["max_length"] = max(section["max_length"], settings.context)
    return lengths


def _fraction(config: Mapping[str, Any], settings: RopeSettings) -> float | None:
    """The rotated fraction where the config must name it; the whole head is what most classes take."""
    section = text_section(config)
    if settings.by_layer_type or not settings.fraction_known:
        return None
    if PARTIAL[0] in settings.extra:
        return settings.fraction
    parameters = section.get("rope_parameters") or {}
    named = PARTIAL[0] in parameters or any(key in section for key in PARTIAL)
    return 1.0 if named or class_fraction(config) != 1 else None


def class_fraction(config: Mapping[str, Any]) -> Any:
    """The rotated fraction of heads that transformers' class of this model fills in where it is missing."""
    if is_plain_class(config):
        return 1
    section = text_section(config)
    unsaid = ("rope_parameters", "rope_scaling", *THETA, *PARTIAL)
    bare = {key: value for key, value in section.items() if key not in unsaid}
    try:
        resolved = resolve(replace_text_section(config, bare))
    except InputError:  # the class needs some of these keys
        return 1
    return ((resolved and resolved.values.get("rope_parameters")) or {}).get(PARTIAL[0], 1)


def _partial(section: Mapping[str, Any], fraction: float | None, model_type: str) -> dict[str, Any]:
    if fraction is None:
        return {}
    name = OLD_NAMES.get(model_type, PARTIAL)[-1 if model_type in OLD_NAMES else 0]
    return dict.fromkeys((name, *(key for key in PARTIAL if key in section)), fraction)


def _local_theta(section: Mapping[str, Any], settings: RopeSettings) -> dict[str, Any]:
    sliding = settings.by_layer_type.get("sliding_attention") or {}
    differs = sliding.get("rope_theta") not in (None, settings.theta)
    return {LOCAL_THETA: sliding["rope_theta"]} if differs or (LOCAL_THETA in section and sliding) else {}


def _reads(resolved: ClassConfig, settings: RopeSettings) -> bool:
    """Whether transformers reads what was written; it may fill in keys of its own."""
    received = resolved.values.get("rope_parameters") or {}
    if not received and settings.rope_type == "default" and not settings.by_layer_type:
        return True  # a class without RoPE
    if resolved.values.get("max_position_embeddings", settings.max_positions) != settings.max_positions:
        return False
    if not settings.by_layer_type:
        is_flat = not any(isinstance(value, Mapping) for value in received.values())
        return is_flat and _parameters(settings).items() <= received.items()
    return all(
        value is received.get(name) if value is None else value.items() <= (received.get(name) or {}).items()
        for name, value in settings.by_layer_type.items()
    )
