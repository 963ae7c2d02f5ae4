"""The pools that the keys, values and positions of needles are sampled from."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from contextgraft.errors import InputError
from contextgraft.prompts.generators import Pool, draw, draw_distinct, draw_keys

if TYPE_CHECKING:
    import numpy as np

Positions = Callable[["np.random.Generator", int], list[float]]


def uniform_positions(rng: "np.random.Generator", count: int) -> list[float]:
    """Positions in the text as fractions of its length, uniformly distributed."""
    return [float(x) for x in rng.random(count)]


@dataclass(frozen=True)
class NeedlePools:
    """What keys and values are sampled from; error messages begin with `name`.

    Values that occur in `haystack` are never sampled, so that no answer is in the text by chance. `clues` has
    what a text says of each key instead of the key, for associations.
    """

    name: str
    keys: Pool
    values: Pool
    value_words: int = 1
    haystack: str = ""
    positions: Positions = uniform_positions
    clues: Mapping[str, str] = field(default_factory=dict)

    @property
    def different_values(self) -> float:
        """How many different values there are; infinite for a generator."""
        return math.inf if isinstance(self.values, str) else len(set(self.values)) ** self.value_words

    def draw_keys(self, count: int, rng: "np.random.Generator") -> list[str]:
        """`count` different keys."""
        return self._named_error(lambda: draw_keys(self.keys, count, rng))

    def draw_values(self, count: int, rng: "np.random.Generator") -> list[str]:
        """`count` different values that do not occur in the haystack."""
        if self.different_values < count:
            raise InputError(
                f"{self.name}: too few values for different needles",
                expected=f">= {count}",
                received=int(self.different_values),
            )
        return self._named_error(
            lambda: draw_distinct(
                self.values, self.value_words, count, rng, refuse=self.haystack.__contains__
            )
        )

    def draw_label(self, rng: "np.random.Generator") -> str:
        """One value, whatever values others have."""
        return draw(self.values, self.value_words, rng)

    def with_clue(self, item: dict[str, Any]) -> dict[str, Any]:
        """A needle with the clue of its key, if keys have clues."""
        return {**item, "clue": self.clues[item["key"]]} if self.clues else item

    def _named_error(self, sample: Callable[[], list[str]]) -> list[str]:
        try:
            return sample()
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from None
