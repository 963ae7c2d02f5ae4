"""The folder that PeftModel.from_pretrained loads: adapter_config.json and adapter_model.safetensors."""

from collections.abc import Collection, Mapping
from typing import Any

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
DENSE = "contextgraft.safetensors"  # deltas that are no factors; PEFT does not read it
PREFIX = "base_model.model."


def module_of(tensor: str) -> str:
    """The module a weight belongs to: its name without `.weight`."""
    return tensor.removesuffix(".weight")


def keys(module: str) -> tuple[str, str]:
    """Names of lora_A [R, N] and lora_B [M, R] of a module in the weights file."""
    return f"{PREFIX}{module}.lora_A.weight", f"{PREFIX}{module}.lora_B.weight"


def config(rank: int, ranks: Mapping[str, int], linear: Collection[str], base_name: str) -> dict[str, Any]:
    """adapter_config.json for modules of given `ranks`; `linear` are all modules that could have one.

    alpha equals the rank everywhere, so that scaling is 1; smaller modules have their rank in the patterns.
    """
    clamped = {module: own for module, own in sorted(ranks.items()) if own != rank}
    return {
        "alpha_pattern": clamped,
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": clamped,
        "target_modules": _targets(set(ranks), set(linear)),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def _targets(modules: set[str], linear: set[str]) -> list[str]:
    """Last parts of the names where these say the same as whole names, as people and vLLM expect them."""
    parts = {module.rpartition(".")[2] for module in modules}
    meant = {module for module in linear if module.rpartition(".")[2] in parts}
    return sorted(parts if meant == modules else modules)
