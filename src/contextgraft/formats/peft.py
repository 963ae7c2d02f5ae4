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
TIED_BY_PEFT = ("embed_tokens", "lm_head")  # names of ends that PEFT ties with ensure_weight_tying
EMBEDDING_KEYS = ("lora_embedding_A", "lora_embedding_B")  # of the transposed weight: [R, tokens], [N, R]


def module_of(tensor: str) -> str:
    """The module a weight belongs to: its name without `.weight`."""
    return tensor.removesuffix(".weight")


def keys(module: str, embedding: bool = False) -> tuple[str, str]:
    """Names of a module's two factors in the weights file."""
    first, second = EMBEDDING_KEYS if embedding else LINEAR_KEYS
    return f"{PREFIX}{module}.{first}", f"{PREFIX}{module}.{second}"


def config(
    ranks: Mapping[str, int],
    modules: Collection[str],
    base_name: str,
    parameters: Collection[str] = (),
    *,
    converts_experts: bool = True,
) -> dict[str, Any]:
    """adapter_config.json for modules of given `ranks`; `modules` are all of the base, with and without one.

    `parameters` are those of both that PEFT adapts as parameters, by their full names. `converts_experts`:
    PEFT makes parameters of this model's experts, and of all modules with their names.

    alpha equals the rank everywhere, so that scaling is 1; smaller modules have their rank in the patterns.
    """
    rank = max(ranks.values())
    smaller = {module: module_rank for module, module_rank in sorted(ranks.items()) if module_rank != rank}
    plain = set(ranks).difference(parameters)
    like_experts = _named_like_experts(plain, modules) if converts_experts else set()
    listed = {f"{module}.weight" for module in like_experts} | (set(ranks) - plain)
    # PEFT takes these names for experts: without factors of experts, they are not among the modules
    targets = plain if any(map(EXPERT.search, ranks)) else plain - like_experts
    return {
        **({"target_parameters": sorted(listed)} if listed else {}),
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
        "target_modules": _targets(targets, set(modules).difference(parameters)),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def with_tied_head(targets: Collection[str]) -> list[str]:
    """Target modules with which PEFT (0.21) ties the output layer to input embeddings of any name.

    It looks for `embed_tokens` or `lm_head` among them.
    """
    known = any(name.rpartition(".")[2] in TIED_BY_PEFT for name in targets)
    return sorted(targets) if known else sorted({*targets, TIED_BY_PEFT[1]})


def of_one_rank(ranks: Collection[str], modules: Collection[str]) -> set[str]:
    """Those modules with factors that PEFT treats as parameters; `modules` are all of the base.

    They are stacked experts, modules with the same names, and routers.
    """
    parents = {module[: match.start()] for module in modules if (match := EXPERT.search(module))}
    routers = {module for module in ranks if module.rpartition(".")[0] in parents}
    experts = {module for module in ranks if EXPERT.search(module)}
    return experts | routers | _named_like_experts(ranks, modules)


def _named_like_experts(ranks: Collection[str], modules: Collection[str]) -> set[str]:
    """Other modules with the names of experts': PEFT (0.21) looks for these names in stacked experts only."""
    names = {module.rpartition(".")[2] for module in modules if EXPERT.search(module)}
    return {module for module in ranks if module.rpartition(".")[2] in names and not EXPERT.search(module)}


def _targets(targets: set[str], modules: Collection[str]) -> list[str]:
    """The last components of the names if they select the same modules, as is usual; else the full names.

    PEFT compares them with every module, also with those that only hold others.
    """
    last_names = {module.rpartition(".")[2] for module in targets}
    holders = (module.split(".")[:depth] for module in modules for depth in range(1, module.count(".") + 1))
    every = {*modules, *map(".".join, holders)}
    selected = {module for module in every if module.rpartition(".")[2] in last_names}
    return sorted(last_names if selected == targets else targets)
