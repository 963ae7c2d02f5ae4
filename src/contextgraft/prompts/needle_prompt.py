"""Prompts of an exact number of tokens, for any tokenizer; several questions may share one text.

Segments (haystack, needle, question) are tokenised apart and their ids joined, so lengths are exact for word
and byte-pair tokenizers alike. A prompt is first drawn as a small recipe (JSON), then assembled from it: the
recipe that is written beside a sample rebuilds its prompt.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from contextgraft.errors import InputError
from contextgraft.prompts.generators import draw_distinct
from contextgraft.prompts.haystack import FILLINGS, Hay, Haystack
from contextgraft.prompts.needle_format import Encode, NeedleFormat, interleave
from contextgraft.prompts.sampling import Source, draw_recipe
from contextgraft.prompts.templates import Wording, answers


@dataclass(frozen=True)
class NeedlePrompt:
    """Token ids of a prompt, the expected answer (several: a JSON list), and the recipe of both."""

    ids: list[int]
    answer: str
    recipe: dict[str, Any]


class Asking(NamedTuple):
    """One question's ids, the room its answer needs in tokens, and the answer as text and as it is scored."""

    ids: list[int]
    room: int
    text: str
    answer: str


@dataclass(frozen=True)
class Context:
    """A text with its needles, and the questions about it.

    Every prompt is `shared`, then as much of `spare` as makes the length exact (`gaps`), then its question.
    """

    shared: list[int]
    spare: list[int]
    gaps: tuple[int, ...]
    askings: tuple[Asking, ...]
    recipe: dict[str, Any]

    def prompt(self, asked: int) -> NeedlePrompt:
        """The prompt that ends with one of the questions."""
        asking = self.askings[asked]
        ids = [*self.shared, *self.spare[: self.gaps[asked]], *asking.ids]
        return NeedlePrompt(ids, asking.answer, {**self.recipe, "asked": asked})


@dataclass(frozen=True)
class Frame:
    """What recipes of one kind are assembled with: wording, what is drawn from, tokenizer, haystack, edges.

    `reserve` is the room for the answer in tokens; None means as many as the expected answer has.
    """

    wording: Wording
    source: Source
    encode: Encode
    hay: Hay
    prefix_ids: Sequence[int] = ()
    suffix_ids: Sequence[int] = ()
    reserve: int | None = None


def weave(frame: Frame, recipe: dict[str, Any]) -> Context:
    """The context of a recipe.

    The needles' places are computed from the room that the longest question leaves, so that all questions
    share the text; a shorter question has a few more filler tokens before it. Raises InputError when needles,
    question and answer alone exceed the length.
    """
    items = recipe["items"]
    start = [*frame.prefix_ids, *frame.encode(frame.wording.intro)]
    needles = [frame.encode(frame.wording.needle_text(item)) for item in items]
    askings = tuple(asking(frame, recipe, question) for question in recipe["questions"])
    fixed = len(start) + sum(map(len, needles))
    rooms = [recipe["length"] - fixed - len(each.ids) - each.room for each in askings]
    nominal = min(rooms)
    if nominal < 0:
        raise InputError(
            f"{frame.source.name}: the prompt does not fit the length",
            expected=f"at least {recipe['length'] - nominal} tokens",
            received=recipe["length"],
            remedy="ask for a longer length or fewer needles",
        )
    others = other_needles(frame, recipe)
    fill = FILLINGS[frame.hay.haystack.filling]
    filling = fill(frame.hay, recipe["offset"], nominal, max(rooms) - nominal, others)
    cuts = [filling.cut(item["at"]) for item in items]
    woven = interleave(filling.body, sorted(zip(cuts, needles, strict=True), key=lambda pair: pair[0]))
    gaps = tuple(room - nominal for room in rooms)
    plain = {name: value for name, value in recipe.items() if name != "asked"}
    return Context([*start, *woven], filling.spare, gaps, askings, plain)


def asking(frame: Frame, recipe: dict[str, Any], question: Sequence[int]) -> Asking:
    """A question about some of the items, and its answer."""
    items = [recipe["items"][place] for place in question]
    text = frame.wording.answer_text(recipe["kind"], items)
    ids = [*frame.encode(frame.wording.question_text(items)), *frame.suffix_ids]
    room = len(frame.encode(text)) if frame.reserve is None else frame.reserve
    found = answers(recipe["kind"], items)
    answer = text if recipe["kind"] == "single" else json.dumps(found, ensure_ascii=False)
    return Asking(ids, room, text, answer)


def other_needles(frame: Frame, recipe: dict[str, Any]) -> Iterator[list[int]]:
    """Endless needles whose keys and values are none of the recipe's items'."""
    source = frame.source
    rng = np.random.default_rng([recipe["offset"], recipe["length"]])
    keys = {item["key"] for item in recipe["items"]}
    values = {item.get("value") for item in recipe["items"]}
    while True:
        (key,) = draw_distinct(source.keys, 1, 1, rng, refuse=keys.__contains__)
        (value,) = draw_distinct(source.values, source.value_words, 1, rng, refuse=values.__contains__)
        yield frame.encode(frame.wording.needle_text({"key": key, "value": value}))


def assemble(frame: Frame, recipe: dict[str, Any]) -> NeedlePrompt:
    """Prompt of a recipe: prompt tokens and the answer's room make exactly the recipe's length."""
    return weave(frame, recipe).prompt(recipe["asked"])


def evaluation_prompt(
    fmt: NeedleFormat,
    encode: Encode,
    *,
    length: int,
    depth: float,
    distractors: int,
    rng: np.random.Generator,
    haystack_ids: Sequence[int],
) -> NeedlePrompt:
    """Draw one prompt of one needle and assemble it; `depth` is in percent."""
    hay = Hay(Haystack(fmt.haystack, ""), list(haystack_ids), [])
    frame = Frame(fmt.wording("single"), Source.of(fmt), encode, hay)
    recipe = draw_recipe(
        frame.source,
        "single",
        length=length,
        depths=(depth,),
        count=1,
        distractors=distractors,
        rng=rng,
        offsets=len(haystack_ids),
    )
    return assemble(frame, {**recipe, "asked": 0})
