"""Weights that an adapter's file stores in full, and which of them PEFT (0.21) loads."""

from collections.abc import Mapping

from contextgraft.adapter.lora.config import LoraConfig
from contextgraft.adapter.lora.parameter_names import WRAPPER
from contextgraft.adapter.peft_keys import OF_FACTORS, TOKEN_ADAPTER, UNUSED, factor_modules, model_name
from contextgraft.checkpoint.safetensors_header import TensorInfo

LORA = "LORA"
SAVED, BASE = ".modules_to_save.", f"{WRAPPER}."


def ignored_weights(config: LoraConfig, tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """The keys of stored weights that PEFT ignores, with their names without PEFT's prefix.

    It loads a weight by its name in the model with the adapter: MODULE.base_layer.weight of a module with
    factors, MODULE.weight of another. `tensors` are those of a weights file without ignored factors. Other
    kinds than LoRA have keys of their own, and none is returned.
    """
    if config.peft_type != LORA:
        return {}
    wrapped = {module.replace(WRAPPER, "") for module in factor_modules(tensors).values()}
    ignored = {}
    for key, info in tensors.items():
        name = model_name(key)
        if UNUSED.search(key) or TOKEN_ADAPTER in name or OF_FACTORS.search(name):
            continue
        if not _is_loaded(config, wrapped, name, info):
            ignored[key] = name
    return ignored


def _is_loaded(config: LoraConfig, wrapped: set[str], name: str, info: TensorInfo) -> bool:
    if SAVED in name:
        return config.selection.is_saved(name.partition(SAVED)[0])
    module = name.partition(BASE)[0] if BASE in name else name.rpartition(".")[0]
    if config.selection.is_saved(module):
        return True
    has_factors = module in wrapped or _gets_factors(config, module, info)
    return has_factors is (BASE in name)


def _gets_factors(config: LoraConfig, module: str, info: TensorInfo) -> bool:
    """Whether a module without factors in the file gets some; of all linear layers, those with a matrix."""
    return config.selection.has_factors(module) and (
        not config.selection.is_all_linear or len(info.shape) == 2
    )
