"""The folder that PeftModel.from_pretrained loads: adapter_config.json and adapter_model.safetensors."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from contextgraft.checkpoint import model_folder

ADAPTER_CONFIG = model_folder.ADAPTER_CONFIG
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_PICKLE = "adapter_model.bin"  # the weights as PEFT wrote them until 0.6
TRAINED_PICKLE = "trainable_params.bin"  # LongLoRA: embeddings and norms that were trained in full
DENSE_DELTAS = "contextgraft.safetensors"  # deltas stored in full; PEFT does not read it
EXPERT = re.compile(r"\.experts\.\d+\.")
PREFIX = "base_model.model."
LINEAR_KEYS = ("lora_A.weight", "lora_B.weight")  # [R, N] and [M, R]
EMBEDDING_KEYS = ("lora_embedding_A", "lora_embedding_B")  # of the transposed weight: [R, tokens], [N, R]


def module_of(tensor: str) -> str:
    """The module a weight belongs to: its name without `.weight`."""
    return tensor.removesuffix(".weight")


def keys(module: str, embedding: bool = False) -> tuple[str, str]:
    """Names of a module's two factors in the weights file."""
    first, second = EMBEDDING_KEYS if embedding else LINEAR_KEYS
    return f"{PREFIX}{module}.{first}", f"{PREFIX}{module}.{second}"


def config(ranks: Mapping[str, int], linear: Collection[str], base_name: str) -> dict[str, Any]:
    """adapter_config.json for modules of given `ranks`; `linear` are all modules that could have one.

    alpha equals the rank everywhere, so that scaling is 1; smaller modules have their rank in the patterns.
    """
    rank = max(ranks.values())
    smaller = {module: module_rank for module, module_rank in sorted(ranks.items()) if module_rank != rank}
    parameters = [f"{module}.weight" for module in sorted(_named_like_experts(ranks))]
    return {
        **({"target_parameters": parameters} if parameters else {}),
        "alpha_pattern": smaller,
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": smaller,
        "target_modules": _targets(set(ranks), set(linear)),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def of_one_rank(modules: Collection[str]) -> set[str]:
    """Modules that PEFT treats as parameters: stacked experts, modules with the same names, and routers."""
    parents = {module[: match.start()] for module in modules if (match := EXPERT.search(module))}
    routers = {module for module in modules if module.rpartition(".")[0] in parents}
    experts = {module for module in modules if EXPERT.search(module)}
    return experts | routers | _named_like_experts(modules)


def _named_like_experts(modules: Collection[str]) -> set[str]:
    """Other modules with the names of experts': PEFT (0.21) looks for these names in stacked experts only."""
    names = {module.rpartition(".")[2] for module in modules if EXPERT.search(module)}
    return {m for m in modules if m.rpartition(".")[2] in names and not EXPERT.search(m)}


def _targets(modules: set[str], linear: set[str]) -> list[str]:
    """The last components of the names if they select the same modules, as is usual; else the full names."""
    last_names = {module.rpartition(".")[2] for module in modules}
    selected = {module for module in linear if module.rpartition(".")[2] in last_names}
    return sorted(last_names if selected == modules else modules)
