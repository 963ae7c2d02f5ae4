"""Drawing recipes: everything random about a text and its questions, as JSON values.

A recipe holds `items` (the needles: key, value, place as a fraction of the filler), `questions` (each the
places of the items it asks for in that list), the `length` of the prompt with its answer, and the `offset` at
which the haystack begins.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np

from contextgraft.errors import InputError
from contextgraft.prompts.generators import Pool, draw_distinct, draw_keys
from contextgraft.prompts.needle_format import NeedleFormat

Places = Callable[[np.random.Generator, int], list[float]]


def anywhere(rng: np.random.Generator, count: int) -> list[float]:
    """Places drawn evenly from the whole text."""
    return [float(x) for x in rng.random(count)]


@dataclass(frozen=True)
class Source:
    """What keys and values are drawn from, under the name errors give it.

    Values that occur in `haystack` are never drawn, so that no answer stands in the text by chance.
    """

    name: str
    keys: Pool
    values: Pool
    value_words: int = 1
    haystack: str = ""
    places: Places = anywhere

    @classmethod
    def of(cls, fmt: NeedleFormat, values: str | None = None, haystack: str = "") -> Self:
        """The source of a format; `values` is a generator to use instead of the format's values."""
        words = fmt.value_words if values is None else 1
        return cls(f"format {fmt.name}", fmt.keys, values or fmt.values, words, haystack)

    def draw_keys(self, count: int, rng: np.random.Generator) -> list[str]:
        """Different keys."""
        return named(self.name, lambda: draw_keys(self.keys, count, rng))

    def draw_values(self, count: int, rng: np.random.Generator) -> list[str]:
        """Different values that the haystack does not hold."""
        if not isinstance(self.values, str) and len(set(self.values)) ** self.value_words < count:
            raise InputError(
                f"{self.name}: too few values for different needles",
                expected=f">= {count}",
                received=len(set(self.values)) ** self.value_words,
            )
        return named(
            self.name,
            lambda: draw_distinct(
                self.values, self.value_words, count, rng, refuse=self.haystack.__contains__
            ),
        )


def named(name: str, drawing: Callable[[], list[str]]) -> list[str]:
    """What was drawn; an error says whose words were too few."""
    try:
        return drawing()
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


class Drawn(NamedTuple):
    """Needles, and the places in that list each question asks for."""

    items: list[dict[str, Any]]
    questions: list[list[int]]


def draw_recipe(
    source: Source,
    kind: str,
    *,
    length: int,
    depths: Sequence[float],
    count: int,
    distractors: int,
    rng: np.random.Generator,
    offsets: int,
) -> dict[str, Any]:
    """The recipe of a text and its questions.

    `single`: a needle and a question for each of the `depths` (percent), and as many more needles at random
    places as make `distractors` others. The other kinds: `count` needles asked for by one question, and
    `distractors` more, all at random places. `offset` is drawn below `offsets`.
    """
    bad = [depth for depth in depths if not 0 <= depth <= 100]
    if bad:
        raise InputError("a depth is a percentage", expected="0 to 100", received=bad[0])
    items, questions = DRAWINGS[kind](source, depths, count, distractors, rng)
    return {
        "kind": kind,
        "length": length,
        "offset": int(rng.integers(offsets)),
        "items": items,
        "questions": questions,
    }


def draw_single(
    source: Source, depths: Sequence[float], _: int, distractors: int, rng: np.random.Generator
) -> Drawn:
    """A question for each depth about the needle there; different keys and values throughout."""
    total = max(len(depths), distractors + 1)
    keys, values = source.draw_keys(total, rng), source.draw_values(total, rng)
    places = [*(depth / 100 for depth in depths), *source.places(rng, total - len(depths))]
    items = [{"key": k, "value": v, "at": a} for k, v, a in zip(keys, values, places, strict=True)]
    return Drawn(items, [[place] for place in range(len(depths))])


def draw_multi_value(
    source: Source, _: Sequence[float], count: int, distractors: int, rng: np.random.Generator
) -> Drawn:
    """One key with several values."""
    keys = source.draw_keys(1 + distractors, rng)
    return asked_together(source, [keys[0]] * (count - 1) + keys, count, rng)


def draw_multi_query(
    source: Source, _: Sequence[float], count: int, distractors: int, rng: np.random.Generator
) -> Drawn:
    """Several keys with a value each, asked for in one question."""
    return asked_together(source, source.draw_keys(count + distractors, rng), count, rng)


def asked_together(source: Source, keys: Sequence[str], count: int, rng: np.random.Generator) -> Drawn:
    """A needle for each key, the first `count` of them asked for together."""
    values, places = source.draw_values(len(keys), rng), source.places(rng, len(keys))
    items = [{"key": k, "value": v, "at": a} for k, v, a in zip(keys, values, places, strict=True)]
    return Drawn(items, [list(range(count))])


def draw_chain(
    source: Source, _: Sequence[float], count: int, distractors: int, rng: np.random.Generator
) -> Drawn:
    """`count` names of one value, each assigned from the one before, in the order of the text.

    A distractor is a name with another value.
    """
    names = source.draw_keys(count + distractors, rng)
    values = source.draw_values(1 + distractors, rng)
    chain, others = names[:count], names[count:]
    places = [*sorted(source.places(rng, count)), *source.places(rng, distractors)]
    items: list[dict[str, Any]] = [{"key": chain[0], "value": values[0]}]
    items += [{"key": key, "previous": previous} for previous, key in pairwise(chain)]
    items += [{"key": key, "value": value} for key, value in zip(others, values[1:], strict=True)]
    placed = [{**item, "at": at} for item, at in zip(items, places, strict=True)]
    return Drawn(placed, [list(range(count))])


DRAWINGS: dict[str, Callable[[Source, Sequence[float], int, int, np.random.Generator], Drawn]] = {
    "single": draw_single,
    "multi_value": draw_multi_value,
    "multi_query": draw_multi_query,
    "chain": draw_chain,
}
