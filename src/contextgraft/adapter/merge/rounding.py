"""Rounding float32 to a model's dtype: to the nearest value, or stochastically."""

from collections.abc import Callable

import torch

from contextgraft.adapter.compute.numeric import seed_of

DIGITS = {torch.bfloat16: 8, torch.float16: 11}  # binary digits of the significand
LEAST = {torch.bfloat16: -133, torch.float16: -24}  # exponent of the smallest positive number

Rounding = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def nearest(name: str) -> Rounding:  # noqa: ARG001 - the same for every tensor
    """Round to nearest, ties to even; a delta below half a unit in the last place is lost."""
    return lambda values, out: out.copy_(values)


def stochastic(name: str) -> Rounding:
    """Round up with a probability equal to the distance from below: small deltas survive in expectation.

    Seeded by the tensor's name: the same merge gives the same bytes. Exact where float32 is stored.
    """
    generator = torch.Generator().manual_seed(seed_of(name))

    def rounded(values: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        if out.dtype not in DIGITS:
            return out.copy_(values)
        chance = torch.rand(values.shape, generator=generator).to(values.device)
        return out.copy_(round_up_or_down(values, chance, out.dtype))

    return rounded


def round_up_or_down(values: torch.Tensor, chance: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The neighbour of each float32 value in `dtype`: the lower one where `chance` is above the distance.

    The result is float32 that `dtype` holds exactly, or beyond its range.
    """
    exponent = torch.frexp(values).exponent - DIGITS[dtype]
    unit = exponent.clamp(min=LEAST[dtype])
    steps = torch.ldexp(values.double(), -unit)
    return torch.ldexp(torch.floor(steps + chance), unit).float()


ROUNDINGS: dict[str, Callable[[str], Rounding]] = {"nearest": nearest, "stochastic": stochastic}
