"""RoPE theta for a longer context: the two published rules, as pure functions of numbers."""

import math
from collections.abc import Callable, Sequence

from contextgraft.errors import InputError


def progressive(theta: float, length: int, new_length: int, head_dim: int) -> int:
    """Theta of the next stage, from theta and length of the stage before.

    Dynamic NTK with factor 4: floor(theta * (4 * new_length / length - 3) ** (d / (d - 2))), in tokens.
    Reproduces the integers of the Gradient model cards. A context that does not grow raises InputError.
    """
    if not 0 < length <= new_length:
        raise InputError(
            "a progressive stage must not shorten the context", expected=f">= {length}", received=new_length
        )
    if head_dim <= 2:
        raise InputError("head dimension too small for the NTK rule", expected="> 2", received=head_dim)
    return math.floor(theta * math.pow(4 * new_length / length - 3, head_dim / (head_dim - 2)))


def absolute(theta0: float, length0: int, length: int) -> int:
    """Theta at `length` tokens, always from the base's own theta0 and length0, whatever stages lie between.

    theta0 ** (ln(length / 2 pi) / ln(length0 / 2 pi)), rounded; source: Gradient 1048k and 4194k model cards.
    """
    if min(length0, length) <= 2 * math.pi:
        raise InputError(
            "context too short for the absolute rule", expected="> 2 pi tokens", received=min(length0, length)
        )
    return round(math.pow(theta0, math.log(length / (2 * math.pi)) / math.log(length0 / (2 * math.pi))))


def progressive_stages(theta: float, length: int, targets: Sequence[int], head_dim: int) -> list[int]:
    """Theta of each stage, each computed from the stage before."""
    thetas: list[int] = []
    for target in targets:
        theta = progressive(theta, length, target, head_dim)
        length = target
        thetas.append(int(theta))
    return thetas


def absolute_stages(theta: float, length: int, targets: Sequence[int], head_dim: int) -> list[int]:  # noqa: ARG001
    """Theta of each stage, each computed from the base; the head dimension plays no part in this rule."""
    return [absolute(theta, length, target) for target in targets]


RULES: dict[str, Callable[[float, int, Sequence[int], int], list[int]]] = {
    "progressive": progressive_stages,
    "absolute": absolute_stages,
}
