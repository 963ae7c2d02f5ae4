"""Values of needles: drawn from a list, or made by a named generator."""

import uuid
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from contextgraft.errors import InputError

if TYPE_CHECKING:
    import numpy as np

Pool = str | Sequence[str]  # name of a generator, or words to draw from

CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_REPEATS = 100_000  # draws in a row without a new value after which a pool counts as exhausted


def number(rng: "np.random.Generator") -> str:
    """Seven digits, the first not zero, as in RULER's number needles."""
    return str(int(rng.integers(1_000_000, 10_000_000)))


def digits(rng: "np.random.Generator") -> str:
    """Five digits, the first not zero, as the values of RULER's variables."""
    return str(int(rng.integers(10_000, 100_000)))


def letters(rng: "np.random.Generator") -> str:
    """Five capital letters, as the names of RULER's variables."""
    return "".join(LETTERS[int(i)] for i in rng.integers(0, 26, 5))


def word(rng: "np.random.Generator") -> str:
    """A pronounceable word of three syllables that no text contains by habit."""
    syllables = (CONSONANTS[int(rng.integers(14))] + VOWELS[int(rng.integers(5))] for _ in range(3))
    return "".join(syllables)


def pair(rng: "np.random.Generator") -> str:
    """Two such words with a hyphen, as RULER joins an adjective and a noun into a key."""
    return f"{word(rng)}-{word(rng)}"


@cache
def word_list(name: str) -> tuple[str, ...]:
    """The words of a shipped list: `words`, `nouns` or `adjectives` (texts/README.md has their origin)."""
    file = files("contextgraft.prompts").joinpath("texts", f"{name}.txt")
    return tuple(file.read_text(encoding="utf-8").split())


def english_pair(rng: "np.random.Generator") -> str:
    """An adjective and a noun with a hyphen, as RULER's keys."""
    adjectives, nouns = word_list("adjectives"), word_list("nouns")
    return f"{adjectives[int(rng.integers(len(adjectives)))]}-{nouns[int(rng.integers(len(nouns)))]}"


def coded(rng: "np.random.Generator") -> str:
    """Six random small letters, as RULER's coded words."""
    return "".join(LETTERS[int(i)] for i in rng.integers(0, 26, 6)).lower()


def uuid4(rng: "np.random.Generator") -> str:
    """A random UUID, as in RULER's hardest needles."""
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))


GENERATORS: dict[str, Callable[["np.random.Generator"], str]] = {
    "number": number,
    "word": word,
    "uuid": uuid4,
    "pair": pair,
    "letters": letters,
    "digits": digits,
    "english_pair": english_pair,
    "coded": coded,
}


def draw(values: Pool, words: int, rng: "np.random.Generator") -> str:
    """One value of `words` words joined by spaces, from a generator or a list."""
    if isinstance(values, str):
        return " ".join(GENERATORS[values](rng) for _ in range(words))
    return " ".join(values[int(i)] for i in rng.integers(0, len(values), words))


def draw_distinct(
    values: Pool,
    words: int,
    count: int,
    rng: "np.random.Generator",
    refuse: Callable[[str], bool] | None = None,
) -> list[str]:
    """`count` different values, so that no distractor has the right answer by chance.

    Values for which `refuse` is true are drawn again. Raises InputError if the pool seems to be exhausted.
    """
    drawn: dict[str, None] = {}
    fruitless = 0
    while len(drawn) < count:
        value = draw(values, words, rng)
        if value in drawn or (refuse is not None and refuse(value)):
            fruitless += 1
            if fruitless == MAX_REPEATS:
                raise InputError("too few different values", expected=count, received=len(drawn))
        else:
            drawn[value] = None
            fruitless = 0
    return list(drawn)


def draw_keys(keys: Pool, count: int, rng: "np.random.Generator") -> list[str]:
    """`count` different keys; InputError if a list is too short."""
    if isinstance(keys, str):
        return draw_distinct(keys, 1, count, rng)
    if count > len(keys):
        raise InputError(
            "the format has too few keys for the needles", expected=f"<= {len(keys)}", received=count
        )
    return [keys[int(i)] for i in rng.choice(len(keys), count, replace=False)]
