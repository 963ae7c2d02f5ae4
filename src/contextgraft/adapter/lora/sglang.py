"""Whether SGLang can serve an adapter as it is, by the rules of its `LoRAAdapter` and `LoRAMemoryPool`."""

import math
from collections.abc import Iterator

from contextgraft.adapter.lora.adapter import Adapter

SGLANG_VERSION = "0.5.23"


def sglang_problems(adapter: Adapter) -> tuple[str, ...]:
    """Why SGLang would reject the adapter or compute wrong results; empty if it can serve it."""
    return tuple(_problems(adapter))


def _problems(adapter: Adapter) -> Iterator[str]:
    config = adapter.config
    if config.peft_type != "LORA":
        yield f"adapters of type {config.peft_type} are not supported"
        return
    if config.use_dora:
        yield "DoRA is not supported"
    if adapter.replaced:
        yield "modules_to_save and trained biases are not loaded"
    ranks = {config.rank(name.removesuffix(".weight")) for name in adapter.factors}
    if ranks - {config.r}:
        listed = ", ".join(map(str, sorted(ranks)))
        yield f"every module must have rank r = {config.r}, not ranks {listed}"
    scaling = config.lora_alpha / config.r
    if any(not math.isclose(entry.scaling, scaling) for entry in adapter.factors.values()):
        yield "alpha_pattern and use_rslora are not read: it would scale every module by lora_alpha / r"
    if isinstance(config.target_modules, str) and config.target_modules not in ("all", "all-linear"):
        yield "target_modules must be a list"
