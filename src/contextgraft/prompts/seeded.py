"""Random numbers by seed: numpy is imported when the first are drawn, which plans never do."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def seeded_generator(seed: int | Sequence[int]) -> "np.random.Generator":
    """The default generator of numpy for a seed."""
    import numpy as np

    return np.random.default_rng(seed)
