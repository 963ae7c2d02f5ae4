"""The RULER tasks about lists of words: common words and frequent words, as many as fit a number of tokens.

Each word and each number is tokenised separately, so the tokens of a list are the sum over its entries.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice
from math import pi
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from contextgraft.config.base import Frozen
from contextgraft.errors import InputError
from contextgraft.prompts.generators import Pool, draw_distinct
from contextgraft.prompts.tokens import Encode, prompt_ending

if TYPE_CHECKING:
    import numpy as np

ZETA_2 = pi**2 / 6  # sum of 1 / k^2, which makes the shares of all ranks one
LONG = 4096  # from this length on RULER repeats the words of `common_words` more often
COMMON = 10  # words to be found
FREQUENT = 3


class ListWording(Frozen):
    """Templates of a list of words. `number` precedes each word and may be empty."""

    intro: str = Field(description="begins the prompt, before the list")
    number: str = Field(default="", description="precedes a word, with {number}")
    word: str = Field(default=" {word}", description="a word of the list, with {word}")
    noise: str = Field(default=" ...", description="frequent words: the most frequent of all, to be ignored")
    question: str = Field(description="ends the prompt")
    lead: str = Field(
        default="",
        description="begins the answer, behind the question; in a chat it stands in the assistant's turn",
    )


class TaskBody(NamedTuple):
    """Token ids of a prompt after its prefix, and the expected answers."""

    ids: list[int]
    answers: list[str]


class Repeats(NamedTuple):
    """How often a common word and any other word occurs in a list."""

    common: int
    other: int


def distinct_words(pool: Pool, rng: "np.random.Generator") -> Iterator[str]:
    """Different words in random order: endless from a generator, each word of a list once."""
    if not isinstance(pool, str):
        yield from (pool[int(index)] for index in rng.permutation(len(pool)))
        return
    seen: set[str] = set()
    while True:
        (word,) = draw_distinct(pool, 1, 1, rng, refuse=seen.__contains__)
        seen.add(word)
        yield word


def common_words(
    wording: ListWording,
    encode: Encode,
    pool: Pool,
    *,
    length: int,
    max_tokens: int,
    rng: "np.random.Generator",
    suffix_ids: Sequence[int] = (),
) -> TaskBody:
    """A solved example, then a list in which ten words are common, with as many others as fit `max_tokens`.

    Repeats are RULER's: 30 and 3 (10 and 3 in its example of 40 words), below 4096 tokens 6 and 1 (3 and 1 in
    its example of 20). Raises InputError if fewer than ten other words fit.
    """
    repeats, sample, words = (
        (Repeats(30, 3), Repeats(10, 3), 40) if length >= LONG else (Repeats(6, 1), Repeats(3, 1), 20)
    )
    numbered = numbers(wording, encode)
    question = encode(f"{wording.question}{wording.lead}")
    ending = prompt_ending(encode, wording.question, wording.lead, suffix_ids)
    example = list(islice(distinct_words(pool, rng), words))
    ids = [
        *encode(wording.intro),
        *listed(wording, encode, repeated(example, sample, rng)),
        *question,
        *listed(wording, encode, example[:COMMON]),
        *encode("\n"),
        *encode(wording.intro),
    ]
    drawn = fitting(
        distinct_words(pool, rng),
        repeats,
        max_tokens - len(ids) - len(ending),
        lambda word: len(encode(entry_text(wording, word))),
        lambda number: len(numbered(number)),
    )
    if len(drawn) < 2 * COMMON:
        raise too_short("common words", length)
    return TaskBody([*ids, *listed(wording, encode, repeated(drawn, repeats, rng)), *ending], drawn[:COMMON])


def fitting(
    words: Iterator[str],
    repeats: Repeats,
    max_tokens: int,
    word_tokens: Callable[[str], int],
    number_tokens: Callable[[int], int],
) -> list[str]:
    """The first words whose repetitions, each with its number, fit `max_tokens`."""
    drawn: list[str] = []
    used, entries = 0, 0
    for word in words:
        times = repeats.common if len(drawn) < COMMON else repeats.other
        used += times * word_tokens(word) + sum(number_tokens(entries + n) for n in range(1, times + 1))
        if used > max_tokens:
            break
        entries += times
        drawn.append(word)
    return drawn


def repeated(words: Sequence[str], repeats: Repeats, rng: "np.random.Generator") -> list[str]:
    """Each word as often as it should occur in the list, in random order."""
    entries = [word for word in words[:COMMON] for _ in range(repeats.common)]
    entries += [word for word in words[COMMON:] for _ in range(repeats.other)]
    return [entries[int(index)] for index in rng.permutation(len(entries))]


def listed(wording: ListWording, encode: Encode, words: Sequence[str]) -> list[int]:
    """Token ids of the words as a numbered list, an entry per line."""
    numbered = numbers(wording, encode)
    ids: list[int] = []
    for number, word in enumerate(words, 1):
        ids += numbered(number)
        ids += encode(entry_text(wording, word))
    return ids


def numbers(wording: ListWording, encode: Encode) -> Callable[[int], list[int]]:
    """The ids of a list's numbers; no ids where the wording has no numbers."""
    return cache(lambda number: encode(wording.number.replace("{number}", str(number))))


def frequent_words(
    wording: ListWording,
    encode: Encode,
    pool: Pool,
    *,
    length: int,
    max_tokens: int,
    rng: "np.random.Generator",
    suffix_ids: Sequence[int] = (),
) -> TaskBody:
    """Coded words with the frequencies of Zipf's law, exponent 2; the question is about three of them.

    The most frequent word is noise, the next three are the answers. As in RULER there is one word for every
    50 tokens of the length beyond the first 50, the noise included. Raises InputError if the third and the
    fourth word would be equally frequent.
    """
    import numpy as np

    intro, noise = encode(wording.intro), encode(wording.noise)
    question = prompt_ending(encode, wording.question, wording.lead, suffix_ids)
    words = list(islice(distinct_words(pool, rng), max((length - 50) // 50 - 1, 0)))
    entries = [noise, *(encode(entry_text(wording, word)) for word in words)]
    counts = zipf([len(entry) for entry in entries], max_tokens - len(intro) - len(question))
    if len(words) <= FREQUENT or counts[FREQUENT] <= counts[FREQUENT + 1]:
        raise too_short("frequent words", length)
    order = rng.permutation(np.repeat(np.arange(len(entries)), counts))
    body = [number for index in order for number in entries[int(index)]]
    return TaskBody([*intro, *body, *question], words[:FREQUENT])


def zipf(sizes: Sequence[int], max_tokens: int) -> list[int]:
    """Count of each rank in the longest text by Zipf's law that fits `max_tokens`; `sizes` in tokens."""
    import numpy as np

    ranks = np.arange(1, len(sizes) + 1, dtype=np.float64)
    shares = 1 / (ranks**2 * ZETA_2)

    def tokens(total: int) -> int:
        return int((np.floor(total * shares).astype(np.int64) * np.asarray(sizes)).sum())

    low, high = 0, 2 * max(max_tokens, 0) + 2  # the first rank alone has more than half of the words
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tokens(middle) <= max_tokens else (low, middle)
    return [int(count) for count in np.floor(low * shares)]


def entry_text(wording: ListWording, word: str) -> str:
    """The text of one word in the list."""
    return wording.word.replace("{word}", word)


def too_short(what: str, length: int) -> InputError:
    """The error for a length that is too short for the task."""
    return InputError(
        f"{what}: too short for the task", received=f"{length} tokens", remedy="choose a longer length"
    )
