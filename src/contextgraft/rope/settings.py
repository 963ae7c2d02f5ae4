"""RoPE settings of a config.json, read from and written in every form that transformers has used."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from contextgraft.errors import InputError
from contextgraft.rope.model_class import ClassConfig, resolve
from contextgraft.rope.parameters import check_lengths, check_section
from contextgraft.rope.text_section import section_name, text_section

THETA = ("rope_theta", "rotary_emb_base")  # top-level names of theta; the second is GPT-NeoX's
PARTIAL = ("partial_rotary_factor", "rotary_pct")  # names of the rotated fraction of a head
# names of the largest number of positions: the first is transformers', the others those that vLLM reads too
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length",
             "max_seq_length", "seq_len", "n_ctx", "context_length", "model_max_length")  # fmt: skip
DEFAULT_THETA = 10000.0  # of the base class of transformers' configs; some classes have another default
OLD_NAMES = ("mrope", "su")  # types that some class of transformers renames
# keys of the old form (`rope_theta`, `rope_scaling`) of classes whose layers do not share one RoPE
BY_LAYER_TYPE = ("layer_types", "sliding_window_pattern", "rope_local_base_freq", "swa_rope_theta",
                 "local_rope_theta", "global_rope_theta", "compress_rope_theta",
                 "layer_rope_theta")  # fmt: skip
# classes of transformers that add nothing to what a config says about RoPE: others fill in the fraction of a
# head that rotates, a type, a RoPE for each layer type, or take theta from another key
PLAIN_CLASSES = (
    "arcee", "cohere", "cohere2", "deepseek_v3", "ernie4_5", "falcon", "gemma", "gemma2", "granite",
    "granitemoe", "helium", "llama", "mistral", "mixtral", "olmo", "olmo2", "olmoe", "qwen2", "qwen2_moe",
    "qwen3", "qwen3_moe", "seed_oss", "smollm3", "starcoder2",
)  # fmt: skip
UNSCALED_LENGTH = ("su", "longrope", "llama3")  # their max_position_embeddings counts the factor already
TYPE_KEYS = ("rope_type", "type")  # of rope_scaling: today's, and that of versions before 4.43
ORIGINAL = "original_max_position_embeddings"
MAIN_LAYERS = "full_attention"


@dataclass(frozen=True)
class RopeSettings:
    """Theta, largest number of positions, type ("default", "llama3", "yarn", ...), parameters of the type.

    The number of positions is 0 for a class without any length (Mamba, Bloom): see `read_any_length`.
    `by_layer_type` is transformers' `rope_parameters` if layers of different types rotate differently (None
    for a type without RoPE); the other values are then those of the layers with full attention. `type_key` is
    the key of `rope_scaling` that has the type: code of repositories reads one of both. The rotated
    fraction of a head is 1 where `extra` lacks it, unless `fraction_known` is False.
    """

    theta: float
    max_positions: int
    rope_type: str = "default"
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)
    by_layer_type: Mapping[str, Any] = field(default_factory=dict)
    type_key: str = field(default=TYPE_KEYS[0], compare=False, repr=False)
    fraction_known: bool = field(default=True, compare=False, repr=False)
    _compared: Mapping[str, Any] = field(init=False, repr=False)  # extra without a fraction of 1

    def __post_init__(self) -> None:
        _require(_is_number(self.theta) and self.theta > 0, "rope_theta", "a positive number", self.theta)
        whole = isinstance(self.max_positions, int) and not isinstance(self.max_positions, bool)
        _require_positions(whole and self.max_positions >= 0, self.max_positions)
        _require(isinstance(self.rope_type, str), "rope_type", "a name", self.rope_type)
        _require(self.type_key in TYPE_KEYS, "type_key", " or ".join(TYPE_KEYS), self.type_key)
        fraction = self.extra.get(PARTIAL[0], 1.0)
        _require(_is_number(fraction) and fraction > 0, PARTIAL[0], "a positive number", fraction)
        rest = {key: value for key, value in self.extra.items() if key != PARTIAL[0] or value != 1}
        object.__setattr__(self, "_compared", rest)

    @property
    def fraction(self) -> float:
        """The part of each head's dimensions that rotates, as `partial_rotary_factor`."""
        return float(self.extra.get(PARTIAL[0], 1.0))

    @property
    def context(self) -> int:
        """The context length in tokens, as vLLM derives it: factors of linear, dynamic and YaRN RoPE count.

        Where layer types have settings of their own, `max_position_embeddings` counts a linear factor already
        (Gemma 3). vLLM: `ModelConfig._get_and_verify_max_len`.
        """
        length: Any = self.max_positions
        factor = self.extra.get("factor")
        if self.rope_type in UNSCALED_LENGTH or factor is None or not _is_number(factor):
            return self.max_positions
        if self.rope_type == "yarn":
            original = self.extra.get(ORIGINAL)
            length = original if _is_number(original) else length
        elif self.by_layer_type:
            return self.max_positions
        finite = math.isfinite(float(length) * factor)
        _require(finite, "factor", "one that gives a finite length", factor)
        return int(length * factor)

    @property
    def description(self) -> str:
        """Theta, positions and a rotated fraction in words."""
        length = f"{self.max_positions:,} positions" if self.max_positions else "no limit of positions"
        fraction = f", partial_rotary_factor {self.fraction:g}" if self.fraction != 1 else ""
        return f"theta {self.theta:g}, {length}{fraction}"

    def with_fraction_of(self, other: "RopeSettings") -> "RopeSettings":
        """These settings with the other's rotated fraction, if their own is not known."""
        if self.fraction_known:
            return self
        return replace(self, extra={**self.extra, PARTIAL[0]: other.fraction}, fraction_known=True)

    def extended(self, theta: float, max_positions: int) -> "RopeSettings":
        """These settings with another theta, in the layers with full attention, and number of positions."""
        by_layer_type = {
            name: {**value, "rope_theta": theta} if name == _main(self.by_layer_type) else value
            for name, value in self.by_layer_type.items()
        }
        return replace(self, theta=theta, max_positions=max_positions, by_layer_type=by_layer_type)


def read(config: Mapping[str, Any], where: object = None) -> RopeSettings:
    """RoPE settings of a parsed config.json, with the precedence of transformers 5.

    Old form: top-level `rope_theta` and `rope_scaling` (`rope_type` or `type`); new form: `rope_parameters`.
    Both may be nested in `text_config`. What is missing is what transformers' class of this model takes.
    Raises InputError for malformed settings, and a config without a length; `where` is its file or folder.
    """
    return _read_config(config, where, needs_length=True)


def read_any_length(config: Mapping[str, Any], where: object = None) -> RopeSettings:
    """As `read`, with 0 positions for a class of transformers that has no length at all."""
    return _read_config(config, where, needs_length=False)


def _read_config(
    config: Mapping[str, Any], where: object, *, needs_length: bool, by_class: bool = True
) -> RopeSettings:
    """The settings; without `by_class`, as the config states them where it states a theta."""
    try:
        section = text_section(config)
        check_section(section)
        stated = _states_theta(section)
        resolved = None if stated and (not by_class or is_plain_class(config)) else resolve(config)
        unlimited = resolved is not None and not needs_length and _has_no_length(resolved)
        settings = _read(_as_resolved(section, resolved) if resolved else section, unlimited=unlimited)
        layers = settings.by_layer_type or {"": {"rope_type": settings.rope_type, **settings.extra}}
        scaled = {key: value for key, value in layers.items() if (value or {}).get("rope_type") == "longrope"}
        if scaled and (known := resolved or resolve(config)):
            key = "rope_scaling" if section.get("rope_scaling") else "rope_parameters"
            check_lengths(scaled, known.values, key)
        return replace(settings, type_key=_type_key(section)) if stated else settings
    except InputError as error:
        file = "config.json" if where is None else f"{where}".removesuffix("/config.json") + "/config.json"
        text = str(error).replace("config.json: ", f"config.json: {section_name(config)}", 1)
        raise InputError(text.replace("config.json", file, 1)) from None


def is_plain_class(config: Mapping[str, Any]) -> bool:
    """Whether the class of a model adds nothing to what its config says about RoPE, or none is named."""
    model_type = text_section(config).get("model_type", config.get("model_type"))
    return model_type in (None, *PLAIN_CLASSES)


def read_stated(config: Mapping[str, Any], where: object = None) -> RopeSettings:
    """As `read_any_length`; where the config states a theta, without what its class fills in."""
    return _read_config(config, where, needs_length=False, by_class=False)


def to_json(settings: RopeSettings) -> dict[str, Any]:
    """The settings as plain JSON values."""
    by_layer_type = {"by_layer_type": dict(settings.by_layer_type)} if settings.by_layer_type else {}
    return {
        "theta": settings.theta,
        "max_positions": settings.max_positions,
        "rope_type": settings.rope_type,
        "extra": dict(settings.extra),
        **by_layer_type,
        **({"type_key": settings.type_key} if settings.type_key != TYPE_KEYS[0] else {}),
    }


def to_record(settings: RopeSettings) -> dict[str, Any]:
    """As `to_json`, with the rotated fraction in any case: a missing one is not the same to every class."""
    known = settings.fraction_known and not settings.by_layer_type
    return to_json(settings) | ({"fraction": settings.fraction} if known else {})


def from_json(data: Mapping[str, Any]) -> RopeSettings:
    """The settings from the output of `to_record` or `to_json`; InputError for missing or unknown keys.

    Without the rotated fraction, which records did not always have, it is not known.
    """
    known = {"theta", "max_positions", "rope_type", "extra"}
    whole = isinstance(data, Mapping) and set(data) - {"by_layer_type", "type_key", "fraction"} == known
    if not whole or not all(isinstance(data.get(key, {}), Mapping) for key in ("extra", "by_layer_type")):
        raise InputError("malformed RoPE settings", expected=f"keys {sorted(known)}", received=data)
    rest = {key: value for key, value in data.items() if key != "fraction"}
    settings = RopeSettings(**rest, fraction_known="fraction" in data or PARTIAL[0] in data["extra"])
    if data.get("fraction", settings.fraction) != settings.fraction:
        raise InputError("malformed RoPE settings", expected=settings.fraction, received=data["fraction"])
    return settings


def _read(section: Mapping[str, Any], *, unlimited: bool = False) -> RopeSettings:
    parameters, scaling = _mapping(section, "rope_parameters"), _mapping(section, "rope_scaling")
    by_layer_type = parameters if _is_nested(parameters) else {}
    chosen = by_layer_type.get(_main(by_layer_type), {}) if by_layer_type else scaling or parameters
    flat = [value for value in by_layer_type.values() if not isinstance(value, Mapping | None)]
    expected = "one setting for all layers, or an object for each layer type of a class that has layer types"
    _require(not flat, "rope_parameters", expected, f"both, as the class reads it: {', '.join(parameters)}")
    theta: Any = _first(
        DEFAULT_THETA, chosen.get("rope_theta"), *map(section.get, THETA), parameters.get("rope_theta")
    )
    extra = {key: chosen[key] for key in sorted(chosen) if key not in ("rope_theta", "rope_type", "type")}
    partial = _first(None, extra.get("partial_rotary_factor"), *map(section.get, PARTIAL))
    extra |= {"partial_rotary_factor": partial} if partial is not None else {}
    rope_type = _first("default", chosen.get("rope_type"), chosen.get("type"))
    if rope_type == "longrope" and section.get(ORIGINAL) is not None:  # Phi-3 has it next to rope_scaling
        extra.setdefault(ORIGINAL, section[ORIGINAL])
    length = _first(None, *map(section.get, POSITIONS))
    _require_positions(length != 0 and (length is not None or unlimited), _first("nothing", length))
    nested = [name for name, value in extra.items() if isinstance(value, Mapping)]
    _require(not nested, "rope_scaling", "one setting for all layers", f"{', '.join(nested)} by layer type")
    return RopeSettings(
        theta=float(theta) if _is_number(theta) else theta,
        max_positions=_first(0, length),
        rope_type=rope_type,
        extra=extra,
        by_layer_type=by_layer_type,
        type_key=_type_key(section),
    )


def _type_key(section: Mapping[str, Any]) -> str:
    """The key that has the type of RoPE."""
    chosen = section.get("rope_scaling") or section.get("rope_parameters") or {}
    return next((key for key in TYPE_KEYS if chosen.get(key) is not None), TYPE_KEYS[0])


def _states_theta(section: Mapping[str, Any]) -> bool:
    """Whether the section has theta and the length of all layers under the names that most classes read."""
    parameters, scaling = _mapping(section, "rope_parameters"), _mapping(section, "rope_scaling")
    types, layers = section.get("layer_types"), section.get("num_hidden_layers")
    if section.get(POSITIONS[0]) is None or (isinstance(types, list) and len(types) != layers):
        return False  # transformers fills in the length, and refuses other numbers of layers
    if _is_nested(parameters):
        return False  # only some classes have layer types
    chosen = scaling or parameters
    if _first(None, chosen.get("rope_type"), chosen.get("type")) in OLD_NAMES:
        return False
    if not scaling and "rope_theta" in parameters:
        return True
    theta = _first(None, chosen.get("rope_theta"), *map(section.get, THETA))
    return theta is not None and not any(key in section for key in BY_LAYER_TYPE)


def _as_resolved(section: Mapping[str, Any], resolved: ClassConfig) -> Mapping[str, Any]:
    """The section with the RoPE parameters and the length that transformers derives from it."""
    known = {key: value for key, value in resolved.values.items() if value is not None}
    if not known.get("rope_parameters"):
        return {**known, **{key: value for key, value in section.items() if value is not None}}
    positions = {key: known[key] for key in POSITIONS[:1] if key in known}
    lengths = {key: section[key] for key in POSITIONS if section.get(key) is not None}
    return {**lengths, **positions, "rope_parameters": known["rope_parameters"]}


def _has_no_length(resolved: ClassConfig) -> bool:
    return not any(key in POSITIONS or key.endswith("_positions") for key in resolved.fields)


def _main(by_layer_type: Mapping[str, Any]) -> str:
    """The layer type whose RoPE is that of the model as a whole: full attention, else the first with RoPE."""
    if by_layer_type.get(MAIN_LAYERS):
        return MAIN_LAYERS
    return next((name for name, value in by_layer_type.items() if value), "")


def _is_nested(parameters: Mapping[str, Any]) -> bool:
    return any(isinstance(value, Mapping) for value in parameters.values())


def _mapping(section: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = section.get(key) or {}
    _require(isinstance(value, Mapping), key, "an object", value)
    return value


def _first(default: Any, *values: Any) -> Any:
    return next((value for value in values if value is not None), default)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require(holds: bool, key: str, expected: str, received: Any, remedy: str | None = None) -> None:
    if not holds:
        raise InputError(
            f"config.json: {key} cannot be used", expected=expected, received=received, remedy=remedy
        )


def _require_positions(holds: bool, received: Any) -> None:
    remedy = "set it to the number of tokens that the model was trained for"
    _require(holds, "max_position_embeddings", "a positive integer", received, remedy)
