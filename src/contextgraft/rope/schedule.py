"""RoPE theta for a longer context by the two published rules. Pure functions."""

import math
from collections.abc import Callable, Sequence

from contextgraft.errors import InputError


def progressive(theta: float, length: int, new_length: int, head_dim: int) -> int:
    """Theta of the next stage, from theta and length of the previous stage.

    Dynamic NTK with factor 4: floor(theta * (4 * new_length / length - 3) ** (d / (d - 2))), in tokens.
    Reproduces the integers of the Gradient model cards. Raises InputError if the context becomes shorter.
    """
    if not 0 < length <= new_length:
        raise InputError(
            "the context must not become shorter from stage to stage",
            expected=f">= {length}",
            received=new_length,
        )
    if head_dim <= 2:
        raise InputError(
            "the head dimension is too small for the NTK rule", expected="> 2", received=head_dim
        )
    return math.floor(theta * math.pow(4 * new_length / length - 3, head_dim / (head_dim - 2)))


def absolute(theta0: float, length0: int, length: int) -> int:
    """Theta at `length` tokens from theta0 and length0 of the base, independent of other stages.

    theta0 ** (ln(length / 2 pi) / ln(length0 / 2 pi)), rounded; source: Gradient 1048k and 4194k model cards.
    """
    if min(length0, length) <= 2 * math.pi:
        raise InputError(
            "the context is too short for the absolute rule",
            expected="> 2 pi tokens",
            received=min(length0, length),
        )
    return round(math.pow(theta0, math.log(length / (2 * math.pi)) / math.log(length0 / (2 * math.pi))))


def progressive_stages(theta: float, length: int, targets: Sequence[int], head_dim: int) -> list[int]:
    """Theta of each stage, computed from the previous stage."""
    thetas: list[int] = []
    for target in targets:
        theta = progressive(theta, length, target, head_dim)
        length = target
        thetas.append(int(theta))
    return thetas


def absolute_stages(theta: float, length: int, targets: Sequence[int], head_dim: int) -> list[int]:  # noqa: ARG001
    """Theta of each stage, computed from the base; this rule does not use the head dimension."""
    return [absolute(theta, length, target) for target in targets]


RULES: dict[str, Callable[[float, int, Sequence[int], int], list[int]]] = {
    "progressive": progressive_stages,
    "absolute": absolute_stages,
}
