"""Whether the parameters of a RoPE type are values from which transformers computes frequencies.

transformers 5 warns about most of them when it reads a config, and fails, or rotates by nothing, later.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from contextgraft.errors import InputError


class Rule(NamedTuple):
    """What a parameter must be, in words, and whether a value is."""

    expected: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _at_least(least: float) -> Callable[[Any], bool]:
    return lambda value: _is_number(value) and value >= least


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _are_positive(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_positive, value))


FACTOR = Rule("a number of at least 1", _at_least(1))
POSITIVE = Rule("a positive number", _is_positive)
NOT_NEGATIVE = Rule("a number of at least 0", _at_least(0))
POSITIONS = Rule("a number of positions above 1", lambda value: _is_number(value) and value > 1)
FACTORS = Rule("a list of positive numbers", _are_positive)
ORIGINAL = "original_max_position_embeddings"
# by type: parameters that must be there, and those that may be missing or null
REQUIRED = {
    "linear": {"factor": FACTOR},
    "dynamic": {"factor": FACTOR},
    "llama3": {"factor": FACTOR, "low_freq_factor": POSITIVE, "high_freq_factor": POSITIVE},
    "longrope": {"short_factor": FACTORS, "long_factor": FACTORS},
}
OPTIONAL = {
    "proportional": {"factor": POSITIVE},
    "dynamic": {"alpha": POSITIVE},
    "llama3": {ORIGINAL: POSITIONS},
    "yarn": {
        "factor": FACTOR,
        ORIGINAL: POSITIONS,
        "attention_factor": NOT_NEGATIVE,
        "beta_fast": NOT_NEGATIVE,
        "beta_slow": NOT_NEGATIVE,
        "mscale": NOT_NEGATIVE,
        "mscale_all_dim": NOT_NEGATIVE,
    },
    "longrope": {
        "factor": FACTOR,
        ORIGINAL: POSITIONS,
        "attention_factor": NOT_NEGATIVE,
        "short_mscale": NOT_NEGATIVE,
        "long_mscale": NOT_NEGATIVE,
    },
}
SECTIONS = ("rope_scaling", "rope_parameters")
LENGTHS = ("short_factor", "long_factor")


def check_section(section: Mapping[str, Any]) -> None:
    """Raise InputError for the first parameter in a config's section that its RoPE type cannot take."""
    for name in SECTIONS:
        parameters = section.get(name)
        if not isinstance(parameters, Mapping):
            continue
        nested = {key: value for key, value in parameters.items() if isinstance(value, Mapping)}
        check_parameters(nested or {"": parameters}, name)


def check_parameters(by_layer_type: Mapping[str, Mapping[str, Any]], section: str) -> None:
    """Raise InputError for the first parameter of a RoPE type that cannot be computed with.

    `section` is the name that the parameters have in their file; types of other programs are not checked.
    """
    for layer_type, parameters in by_layer_type.items():
        name = f"{section}.{layer_type}".removesuffix(".")
        kind = parameters.get("rope_type") or parameters.get("type") or ""
        required, optional = (rules.get(str(kind), {}) for rules in (REQUIRED, OPTIONAL))
        for key, rule in {**required, **optional}.items():
            value = parameters.get(key)
            absent = key not in parameters or (value is None and key != ORIGINAL)
            if not rule.holds(value) and not (absent and key in optional):
                raise InputError(
                    f"config.json: {name}.{key} cannot be used", expected=f"{rule.expected} (type {kind})",
                    received=f"{value!r}"[:80] if key in parameters else "nothing",
                )  # fmt: skip


def without_file(error: InputError) -> str:
    """The text of an error about settings as they are in a config.json, which were read from another file."""
    return str(error).removeprefix("config.json: ")


def check_lengths(
    by_layer_type: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any], section: str
) -> None:
    """Raise InputError for lists of LongRoPE with another length than the number of frequencies.

    `values` are those of the config's class. Layers of different types may have heads of different sizes.
    """
    sizes = [values.get("head_dim") or _even_head(values)]
    if list(by_layer_type) != [""]:
        sizes += [size for key, size in values.items() if key.endswith("_head_dim")]
    for layer_type, parameters in by_layer_type.items():
        name = f"{section}.{layer_type}".removesuffix(".")
        fraction = parameters.get("partial_rotary_factor") or 1.0
        known = sorted({(int(size * fraction) + 1) // 2 for size in sizes if isinstance(size, int) and size})
        for key in LENGTHS:
            length = len(parameters.get(key) or ())
            if known and length and length not in known:
                raise InputError(
                    f"config.json: {name}.{key} cannot be used",
                    expected=f"{' or '.join(map(str, known))} numbers, half of a head's rotated dimensions",
                    received=f"a list of {length}",
                )


def _even_head(values: Mapping[str, Any]) -> int:
    heads, hidden = values.get("num_attention_heads"), values.get("hidden_size")
    return hidden // heads if isinstance(heads, int) and isinstance(hidden, int) and heads else 0
