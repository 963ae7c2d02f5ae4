"""llama-server's options for RoPE settings that differ from those in the model's file."""

import math
from collections.abc import Iterator

from contextgraft.rope.settings import ORIGINAL, RopeSettings

# their factors are a tensor of the model's file, which its converter computes from the base's own settings
FACTORS_IN_FILE = ("llama3", "longrope")
NOT_IN_OPTIONS = ("mscale", "mscale_all_dim", "truncate")  # keys of YaRN


def llama_cpp_rope_options(rope: RopeSettings, base: RopeSettings) -> list[object] | None:
    """The options with which the base's file is run by a donor's settings; None if there are none."""
    if (rope.theta, *_kind(rope)) == (base.theta, *_kind(base)):
        return []
    if rope.rope_type not in OPTIONS or base.rope_type in FACTORS_IN_FILE or rope.fraction != base.fraction:
        return None
    keys = {key for side in (rope, base) for key, value in side.extra.items() if value is not None}
    if rope.by_layer_type or base.by_layer_type or keys.intersection(NOT_IN_OPTIONS):
        return None
    return ["--rope-freq-base", f"{rope.theta:.17g}", *OPTIONS[rope.rope_type](rope, base)]


def attention_factor_ratio(rope: RopeSettings) -> float | None:
    """YaRN's own `attention_factor`, by the factor that follows from the scale; None if it has none.

    llama.cpp and SGLang multiply the latter by an option.
    """
    own = rope.extra.get("attention_factor")
    return None if own is None else float(own / (0.1 * math.log(max(rope.extra["factor"], 1)) + 1))


def _kind(rope: RopeSettings) -> tuple[object, ...]:
    return rope.rope_type, dict(rope.extra), dict(rope.by_layer_type)


def _default(_: RopeSettings, base: RopeSettings) -> Iterator[object]:
    yield from () if base.rope_type == "default" else ("--rope-scaling", "none")


def _linear(rope: RopeSettings, _: RopeSettings) -> Iterator[object]:
    yield from ("--rope-scaling", "linear", "--rope-scale", rope.extra["factor"])


def _yarn(rope: RopeSettings, _: RopeSettings) -> Iterator[object]:
    """YaRN's options, where they differ from what llama.cpp assumes."""
    extra, ratio = rope.extra, attention_factor_ratio(rope)
    yield from ("--rope-scaling", "yarn", "--rope-scale", extra["factor"])
    yield from ("--yarn-orig-ctx", extra.get(ORIGINAL, rope.max_positions))
    for key, option in (("beta_fast", "--yarn-beta-fast"), ("beta_slow", "--yarn-beta-slow")):
        if extra.get(key) is not None:
            yield from (option, extra[key])
    if ratio is not None:
        yield from ("--yarn-attn-factor", ratio)


OPTIONS = {"default": _default, "linear": _linear, "yarn": _yarn}
