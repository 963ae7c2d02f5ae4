"""LoRA while training: PEFT's layers put into the model, and taken out again as changes of the weights."""

from collections.abc import Mapping, Sequence

import torch

from contextgraft.config.training import Lora

ADAPTER_NAME = "default"


def insert(model: torch.nn.Module, lora: Lora, targets: Sequence[str], *, seed: int) -> None:
    """Put factors of this rank beside the targets; the first is drawn from the seed, the second is 0."""
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - only runs with LoRA pay for it

    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=ADAPTER_NAME)


def is_base(name: str) -> bool:
    """Whether a parameter is a weight that factors stand beside."""
    return ".base_layer." in name


def is_factor(name: str) -> bool:
    """Whether a parameter is a factor."""
    return f".{ADAPTER_NAME}." in name


def base_name(name: str) -> str:
    """The name of a parameter in a model without factors."""
    return name.replace(".base_layer.", ".")


def merged(
    learnt: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor], lora: Lora | None
) -> dict[str, torch.Tensor]:
    """What was learnt, as whole weights: base + alpha / rank * B @ A, in float32, where there are factors."""
    if lora is None:
        return dict(learnt)
    first, second = (f".lora_{factor}.{ADAPTER_NAME}.weight" for factor in "AB")
    whole = {name: value for name, value in learnt.items() if not name.endswith((first, second))}
    for name, value in learnt.items():
        if name.endswith(first):
            module = name.removesuffix(first)
            delta = learnt[module + second].float() @ value.float()
            whole[f"{module}.weight"] = base[f"{module}.weight"].float() + lora.alpha / lora.rank * delta
    return whole
