"""LoRA during training: PEFT's layers are injected into the model, and merged into the weights at the end."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from contextgraft.config.training import Lora

ADAPTER_NAME = "default"


def insert(model: torch.nn.Module, lora: Lora, targets: Sequence[str], *, seed: int) -> None:
    """Add LoRA factors to the target modules: lora_A is drawn from the seed, lora_B is 0.

    PEFT puts factors on the device of the weights, which may be without memory (meta): meanwhile it sees
    tensors on the processor whose elements share their memory.
    """
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - only runs with LoRA pay for it

    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(targets))
    modules: list[Any] = [model.get_submodule(target) for target in targets]
    weights = [module.weight for module in modules]
    for module, weight in zip(modules, weights, strict=True):
        module.weight = torch.nn.Parameter(weight.new_empty((), device="cpu").expand(weight.shape))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=ADAPTER_NAME)
    for module, weight in zip(modules, weights, strict=True):
        module.weight = weight  # the module is the base layer now


def is_base(name: str) -> bool:
    """Whether a parameter is a base weight under LoRA factors."""
    return ".base_layer." in name


def is_factor(name: str) -> bool:
    """Whether a parameter is a LoRA factor."""
    return f".{ADAPTER_NAME}." in name


def base_name(name: str) -> str:
    """The name that a parameter has in a model without LoRA."""
    return name.replace(".base_layer.", ".")


def factor_names(module: str) -> tuple[str, str]:
    """Names of the parameters that are the factors A and B of a module."""
    first, second = (f"{module}.lora_{factor}.{ADAPTER_NAME}.weight" for factor in "AB")
    return first, second


def merged_weight(
    name: str,
    base_weight: Callable[[], torch.Tensor],
    trained: Mapping[str, torch.Tensor],
    lora: Lora | None,
) -> torch.Tensor:
    """The weight after training: base + alpha / rank * lora_B @ lora_A, in float32, if it has factors.

    Otherwise the trained weight, or the base weight where nothing was trained: it is read where it is
    needed. `trained` has parameters by name, factors among them.
    """
    a_name, b_name = factor_names(name.removesuffix(".weight"))
    if lora is None or a_name not in trained:
        return trained[name] if name in trained else base_weight()
    delta = trained[b_name].float() @ trained[a_name].float()
    return base_weight().float() + lora.alpha / lora.rank * delta
