"""MFU of a run: the operations that plans count, and the peak of its devices."""

from functools import cache
from pathlib import Path

import torch

from contextgraft.config.training import load_recipe
from contextgraft.planning.flops import training_flops
from contextgraft.planning.mfu.cards import peak_flops
from contextgraft.planning.shapes.model_shape import read_model_shape
from contextgraft.training.reporting.utilisation import ModelFlops


def model_flops(
    config: Path, base: Path, *, device: str, dtype: torch.dtype, devices: int = 1, peak: float | None = None
) -> ModelFlops | None:
    """What the MFU of a run on so many devices of one type is computed from; None if no peak is known.

    `peak` is that of one device, FLOP/s. Without it, it is that of the first GPU, by its name, for a run in
    bfloat16. Operations are those of the plan, without recomputing: of the recipe `config` for the model in
    the folder `base`.
    """
    if peak is None and device == "cuda" and dtype == torch.bfloat16:
        peak = peak_flops(torch.cuda.get_device_name())
    if peak is None:
        return None
    frozen, shape = load_recipe(config).lora is not None, read_model_shape(base)

    @cache
    def of_sequence(length: int) -> int:
        return training_flops(shape, length, frozen_weights=frozen, recompute=False)

    return ModelFlops(of_sequence, peak * devices)
