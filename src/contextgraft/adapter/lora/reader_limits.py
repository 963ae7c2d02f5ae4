"""What readers of an adapter do not apply, or cannot load, that a merge applies.

tests/parity/test_reader_limits.py shows each entry to be true with tiny models.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from contextgraft.formats.architecture import TEXT_TYPE, TYPE
from contextgraft.formats.peft import module_of

PEFT = "PEFT 0.21"
NOT_LOADED, NO_EFFECT, FAILS = (
    "cannot load the adapter, because of",
    "does not apply",
    "fails when it runs with",
)


@dataclass(frozen=True)
class ReaderLimit:
    """Modules, in models of some types, with which a reader does something else than a merge: `effect`."""

    model_types: tuple[str, ...]
    modules: re.Pattern[str]
    reader: str
    effect: str
    reason: str


# types whose experts transformers 5 stacks in memory, and for which PEFT does not convert their factors
STACKED_IN_MEMORY = (
    "axk1", "axk2", "bailing_hybrid", "deepseek_v4", "ernie4_5_vl_moe_text", "flint", "hy_v3", "jamba",
    "kimi_linear", "kolibri1", "laguna", "lfm2_moe", "mimo_v2_flash", "nemotron_h", "phimoe", "qwen2_moe",
    "qwen3_5_moe_text", "qwen4_exp_text",
)  # fmt: skip
LIMITS = (
    ReaderLimit(
        STACKED_IN_MEMORY, re.compile(r"\.experts\.\d+\."), PEFT, NO_EFFECT,
        "transformers 5 stacks these experts, and PEFT has no conversion of their factors for this type",
    ),
    ReaderLimit(
        ("phimoe",), re.compile(r"\.block_sparse_moe\.gate$"), PEFT, NO_EFFECT,
        "transformers 5 calls the router by another name, and PEFT has no conversion for this type",
    ),
    ReaderLimit(
        tuple(name for name in STACKED_IN_MEMORY if name != "phimoe"),
        re.compile(r"\.(mlp|feed_forward|block_sparse_moe|mixer|ffn)\.(gate|router)$"),
        PEFT, NOT_LOADED, "it adapts no module of the router's class (leave it out with --exclude)",
    ),
    ReaderLimit(
        ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"),
        re.compile(r"\.(mamba|mixer)\.out_proj$"),
        PEFT, NOT_LOADED, "it refuses this module of models with Mamba layers (leave it out with --exclude)",
    ),
    ReaderLimit(
        ("falcon_mamba", "jamba", "mamba"), re.compile(r"\.(mamba|mixer)\.dt_proj$"), PEFT, NO_EFFECT,
        "the Mamba layer reads the weight without calling the module",
    ),
    ReaderLimit(
        ("longcat_flash",), re.compile(r"\.mlp\.(router\.classifier$|experts\.\d+\.(gate|up)_proj$)"),
        PEFT, NO_EFFECT, "the layer reads the weight without calling the module",
    ),
    ReaderLimit(
        ("dbrx",), re.compile(r"\.ffn\.experts\.mlp\."), PEFT, FAILS,
        "the layer reads the parameters past PEFT's wrapper; merge_and_unload applies them",
    ),
)  # fmt: skip


def converts_experts(architecture: Mapping[str, Any]) -> bool:
    """Whether PEFT converts the factors of experts that transformers stacks in memory, if it stacks any."""
    return _model_type(architecture) not in STACKED_IN_MEMORY


def reader_limits(architecture: Mapping[str, Any], tensors: Iterable[str]) -> list[str]:
    """One line for each limit that concerns an adapter with factors of these tensors."""
    return list(_lines(_model_type(architecture), [module_of(name) for name in tensors]))


def _model_type(architecture: Mapping[str, Any]) -> str:
    return str(architecture.get(TEXT_TYPE) or architecture.get(TYPE))


def _lines(model_type: str, modules: list[str]) -> Iterator[str]:
    for limit in LIMITS:
        concerned = sorted(name for name in modules if limit.modules.search(name))
        if model_type in limit.model_types and concerned:
            others = f" and {len(concerned) - 1} more" if len(concerned) > 1 else ""
            yield (
                f"{limit.reader} {limit.effect} {concerned[0]}{others}, which merge applies: {limit.reason}"
            )
