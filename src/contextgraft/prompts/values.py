"""Values a needle can hide: drawn from a list, or made by a named generator."""

import uuid
from collections.abc import Callable, Sequence

import numpy as np

CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"


def number(rng: np.random.Generator) -> str:
    """Seven digits, the first not zero, as in RULER's number needles."""
    return str(int(rng.integers(1_000_000, 10_000_000)))


def word(rng: np.random.Generator) -> str:
    """A pronounceable word of three syllables that no text contains by habit."""
    syllables = (CONSONANTS[int(rng.integers(14))] + VOWELS[int(rng.integers(5))] for _ in range(3))
    return "".join(syllables)


def uuid4(rng: np.random.Generator) -> str:
    """A random UUID, as in RULER's hardest needles."""
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))


GENERATORS: dict[str, Callable[[np.random.Generator], str]] = {"number": number, "word": word, "uuid": uuid4}


def draw(values: str | Sequence[str], words: int, rng: np.random.Generator) -> str:
    """One value of `words` parts joined by a space, from a generator's name or a list."""
    if isinstance(values, str):
        return " ".join(GENERATORS[values](rng) for _ in range(words))
    return " ".join(values[int(i)] for i in rng.integers(0, len(values), words))


def draw_distinct(values: str | Sequence[str], words: int, count: int, rng: np.random.Generator) -> list[str]:
    """`count` different values, so that a distractor never holds the right answer by chance."""
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn.setdefault(draw(values, words, rng))
    return list(drawn)
