"""Tiny base and donor of model families whose long context is more than theta, and grafts of the donor.

`FAMILIES` has the values of the base's config and those that its donor changes. The target of a graft is the
base itself and the rank is full, so that the graft must compute what the donor computes.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner
from transformers import AutoConfig, AutoModelForCausalLM

from contextgraft.cli.commands import extract, merge

COMMON: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LENGTHS = (12, 300)  # within every window, and past the base's context
SLIDING, FULL = "sliding_attention", "full_attention"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 128}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A class of transformers: values of the base's config, and those of the donor that differ."""

    model_type: str
    base: dict[str, Any] = field(default_factory=dict)
    donor: dict[str, Any] = field(default_factory=dict)


def theta(value: float, **more: Any) -> dict[str, Any]:
    """Flat RoPE parameters with that theta."""
    return {"rope_parameters": {"rope_type": "default", **more, "rope_theta": value}}


def by_layer(full: dict[str, Any], sliding: dict[str, Any]) -> dict[str, Any]:
    """RoPE parameters by layer type."""
    return {"rope_parameters": {FULL: full, SLIDING: sliding}}


LONGER = {"max_position_embeddings": 1024}
DEFAULT = {"rope_type": "default", "rope_theta": 1e4}
FAMILIES: dict[str, Family] = {
    "mistral without window": Family(
        "mistral", {"sliding_window": 16}, {"sliding_window": None, **theta(1e6), **LONGER}
    ),
    "mistral, wider": Family("mistral", {"sliding_window": 16}, {"sliding_window": 64, **LONGER}),
    "ministral": Family(
        "ministral",
        {"sliding_window": 16, "layer_types": [SLIDING, FULL], "head_dim": 8},
        {"layer_types": [FULL, FULL], **theta(1e6), **LONGER},
    ),
    "starcoder2": Family("starcoder2", {"sliding_window": 16}, {"sliding_window": 128, **theta(1e6)}),
    "qwen2 with a window": Family(
        "qwen2",
        {"use_sliding_window": False},
        {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1, **LONGER},
    ),
    "qwen3 yarn": Family("qwen3", {"head_dim": 8}, theta(1e6, **YARN)),
    "qwen2 yarn": Family("qwen2", {}, theta(1e6, **YARN)),
    "gemma2": Family("gemma2", {"head_dim": 8, "sliding_window": 16}, {"sliding_window": 64, **theta(4e4)}),
    "gemma2, scores": Family(
        "gemma2",
        {"head_dim": 8, "sliding_window": 16},
        {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 0.01, **LONGER},
    ),
    "granite, scores": Family("granite", {}, {"attention_multiplier": 4.0, **LONGER}),
    "gemma3": Family(
        "gemma3_text",
        {"head_dim": 8, "sliding_window": 16, "layer_types": [SLIDING, FULL], **by_layer(DEFAULT, DEFAULT)},
        {
            "sliding_window": 32,
            **by_layer({"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}, DEFAULT),
            **LONGER,
        },
    ),
    "olmo3": Family(
        "olmo3",
        {"sliding_window": 16, "layer_types": [SLIDING, FULL]},
        {
            **by_layer({**YARN, "rope_theta": 5e5}, {**DEFAULT, "rope_theta": 5e5}),
            "max_position_embeddings": 512,
        },
    ),
    "cohere2": Family(
        "cohere2",
        {"sliding_window": 16, "layer_types": [SLIDING, FULL]},
        {"sliding_window": 64, **theta(1e6), **LONGER},
    ),
    "phi3": Family(
        "phi3",
        {"num_key_value_heads": 4, "original_max_position_embeddings": 128},
        {"rope_parameters": {**LONGROPE, "rope_theta": 1e4}, "max_position_embeddings": 2048},
    ),
    "llama4": Family(
        "llama4_text",
        {
            "head_dim": 8, "attention_chunk_size": 16, "moe_layers": [], "intermediate_size_mlp": 48,
            "no_rope_layers": [1, 1], "layer_types": ["chunked_attention", FULL],
        },
        {"attention_chunk_size": 64, "no_rope_layers": [1, 0], "floor_scale": 32, **theta(2e6), **LONGER},
    ),
    "smollm3": Family(
        "smollm3", {"no_rope_layers": [1, 1]}, {"no_rope_layers": [1, 0], **theta(4e6), **LONGER}
    ),
    "llama llama3": Family("llama", {}, {**theta(5e5, **LLAMA3), **LONGER}),
    "llama linear": Family("llama", {}, theta(1e4, rope_type="linear", factor=8.0)),
    "llama dynamic": Family("llama", {}, theta(1e4, rope_type="dynamic", factor=4.0)),
    "ministral3": Family(
        "ministral3",
        {"head_dim": 8, **theta(1e4, **{**YARN, "factor": 2.0}, llama_4_scaling_beta=0.1)},
        theta(1e6, **YARN, llama_4_scaling_beta=0.2),
    ),
    "gpt_neox": Family(
        "gpt_neox", {}, {**theta(1e6, partial_rotary_factor=0.25), **LONGER}
    ),
    "stablelm": Family("stablelm", {}, {**theta(1e6, partial_rotary_factor=0.25), **LONGER}),
    "exaone4": Family(
        "exaone4",
        {"sliding_window": 16, "layer_types": [SLIDING, FULL], "head_dim": 8},
        {"sliding_window": 64, **theta(4e6), **LONGER},
    ),
}  # fmt: skip


def build(family: Family, root: Path) -> None:
    """Save base and donor, as transformers does; the donor's weights are the base's plus a delta."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family.model_type, **COMMON | family.base)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(root / "base")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if ".layers." in name and parameter.ndim == 2:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    model.config = AutoConfig.for_model(family.model_type, **COMMON | family.base | family.donor)
    model.save_pretrained(root / "donor")


def graft(root: Path) -> str:
    """Extract `donor` minus `base` at full rank and merge it into the base; returns what was printed."""
    printed = []
    for command, words in (
        (extract.command, ["--base", "base", "--donor", "donor", "--rank", "64", "--out", "adapter"]),
        (merge.command, ["--adapter", "adapter/r64", "--target", "base", "--out", "graft"]),
    ):
        arguments = [word if word.startswith("-") or word == "64" else str(root / word) for word in words]
        done = CliRunner().invoke(command, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        printed.append(done.output)
    return "".join(printed)


def distance(root: Path, length: int) -> float:
    """The largest difference between the logits of graft and donor at that many tokens."""
    tokens = torch.randint(3, 64, (1, length), generator=torch.Generator().manual_seed(5))
    logits = []
    for name in ("donor", "graft"):
        model = AutoModelForCausalLM.from_pretrained(
            root / name,
            dtype=torch.float32,
            attn_implementation="eager",  # others ignore Gemma 2's cap
        )
        with torch.no_grad():
            logits.append(model.eval()(tokens).logits)
    return float((logits[0] - logits[1]).abs().max())


def config_of(folder: Path) -> dict[str, Any]:
    """The parsed config.json of a folder."""
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content
