"""RoPE settings of a config.json, read from and written in every form that transformers has used."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from contextgraft.errors import InputError

THETA = ("rope_theta", "rotary_emb_base")  # top-level names of theta; the second is GPT-NeoX's
PARTIAL = ("partial_rotary_factor", "rotary_pct")  # names of the rotated fraction of a head
DEFAULT_THETA = 10000.0  # default of transformers


@dataclass(frozen=True)
class RopeSettings:
    """Theta, largest number of positions, type ("default", "llama3", "yarn", ...), parameters of the type."""

    theta: float
    max_positions: int
    rope_type: str = "default"
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(_is_number(self.theta) and self.theta > 0, "rope_theta", "a positive number", self.theta)
        whole = isinstance(self.max_positions, int) and not isinstance(self.max_positions, bool)
        _require(
            whole and self.max_positions > 0,
            "max_position_embeddings",
            "a positive integer",
            self.max_positions,
        )
        _require(isinstance(self.rope_type, str), "rope_type", "a name", self.rope_type)


def read(config: Mapping[str, Any]) -> RopeSettings:
    """RoPE settings of a parsed config.json, with the precedence of transformers 5.

    Old form: top-level `rope_theta` and `rope_scaling` (`rope_type` or `type`); new form: `rope_parameters`.
    Raises InputError for settings that differ by layer type and configs without `max_position_embeddings`.
    """
    parameters = _section(config, "rope_parameters")
    chosen = _section(config, "rope_scaling") or parameters
    theta = _first(
        DEFAULT_THETA, chosen.get("rope_theta"), *map(config.get, THETA), parameters.get("rope_theta")
    )
    rope_type = _first("default", chosen.get("rope_type"), chosen.get("type"))
    extra = {key: chosen[key] for key in sorted(chosen) if key not in ("rope_theta", "rope_type", "type")}
    partial = _first(None, extra.get("partial_rotary_factor"), *map(config.get, PARTIAL))
    extra |= {"partial_rotary_factor": partial} if partial is not None else {}
    return RopeSettings(
        theta=float(theta) if _is_number(theta) else theta,
        max_positions=_first("nothing", config.get("max_position_embeddings")),
        rope_type=rope_type,
        extra=extra,
    )


def apply(config: Mapping[str, Any], settings: RopeSettings) -> dict[str, Any]:
    """A copy of the config with these RoPE settings in both forms, and no others.

    transformers before 5 reads `rope_theta` and `rope_scaling`, later versions `rope_parameters`.
    """
    changed = {key: value for key, value in config.items() if key != "rope_scaling"}
    if settings.rope_type != "default":
        changed["rope_scaling"] = {"rope_type": settings.rope_type, **settings.extra}
    changed["rope_theta"] = settings.theta
    changed["rope_parameters"] = {
        "rope_theta": settings.theta,
        "rope_type": settings.rope_type,
        **settings.extra,
    }
    changed["max_position_embeddings"] = settings.max_positions
    partial = settings.extra.get("partial_rotary_factor")
    changed |= {key: settings.theta for key in THETA if key in config}
    changed |= {key: partial for key in PARTIAL if key in config and partial is not None}
    return changed


def to_json(settings: RopeSettings) -> dict[str, Any]:
    """The settings as plain JSON values."""
    return {
        "theta": settings.theta,
        "max_positions": settings.max_positions,
        "rope_type": settings.rope_type,
        "extra": dict(settings.extra),
    }


def from_json(data: Mapping[str, Any]) -> RopeSettings:
    """The settings from the output of `to_json`; InputError for missing or unknown keys."""
    known = {"theta", "max_positions", "rope_type", "extra"}
    whole = isinstance(data, Mapping) and set(data) == known and isinstance(data["extra"], Mapping)
    if not whole:
        raise InputError("malformed RoPE settings", expected=f"keys {sorted(known)}", received=data)
    return RopeSettings(**data)


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = config.get(key) or {}
    _require(isinstance(section, Mapping), key, "an object", section)
    nested = [name for name, value in section.items() if isinstance(value, Mapping)]
    _require(not nested, key, "one setting for all layers", f"settings by layer type: {', '.join(nested)}")
    return section


def _first(default: Any, *values: Any) -> Any:
    return next((value for value in values if value is not None), default)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require(holds: bool, key: str, expected: str, received: Any) -> None:
    if not holds:
        raise InputError(f"config.json: {key} cannot be used", expected=expected, received=received)
