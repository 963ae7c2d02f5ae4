"""Needle-in-a-haystack prompts of an exact number of tokens, for any tokenizer.

Segments (haystack, needle, question) are tokenised apart and their ids joined, so lengths are exact for word
and byte-pair tokenizers alike. A prompt is first drawn as a small recipe (JSON), then assembled from it: the
recipe that is written beside a sample rebuilds its prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from contextgraft.config.base import Frozen, load
from contextgraft.errors import InputError
from contextgraft.prompts.values import GENERATORS, draw_distinct

Encode = Callable[[str], list[int]]


class NeedleFormat(Frozen):
    """How a needle, its question and its answer are worded. Templates may use {key} and {value}."""

    name: str = Field(description="label of the format in results")
    needle: str = Field(description="sentence hidden in the haystack, with {key} and {value}")
    question: str = Field(description="end of the prompt, with {key}")
    answer: str = Field(default="{value}", description="what the model should continue with")
    ending: str = Field(default="", description="what follows an answer in training documents")
    keys: tuple[str, ...] = Field(min_length=1, description="things that can have a value")
    values: tuple[str, ...] | str = Field(
        default="number", description=f"list of words, or a generator: {', '.join(GENERATORS)}"
    )
    value_words: int = Field(default=1, ge=1, description="draws joined by a space into one value")
    haystack: str = Field(description="a shipped text by name, or a path relative to this file")
    scoring: Literal["exact", "contains"] = Field(default="exact", description="how output is compared")
    chat: bool = Field(default=False, description="wrap the prompt in the model's chat template")
    stop: tuple[str, ...] = Field(default=(), description="texts that end a generation")

    @model_validator(mode="after")
    def check(self) -> Self:
        """Keys are distinct, values enough, the generator known, the templates complete."""
        if len(set(self.keys)) < len(self.keys):
            raise ValueError("keys must be distinct")
        if isinstance(self.values, str) and self.values not in GENERATORS:
            raise ValueError(f"unknown generator {self.values!r}; expected one of {', '.join(GENERATORS)}")
        if not isinstance(self.values, str) and len(set(self.values)) < 2:
            raise ValueError("values must hold at least two words")
        if "{key}" not in self.needle or "{value}" not in self.needle or "{key}" not in self.question:
            raise ValueError("needle must contain {key} and {value}, question {key}")
        if "{value}" not in self.answer:
            raise ValueError("answer must contain {value}")
        return self

    def needle_text(self, key: str, value: str) -> str:
        """The sentence to hide."""
        return self.needle.replace("{key}", key).replace("{value}", value)

    def question_text(self, key: str) -> str:
        """The question that ends a prompt."""
        return self.question.replace("{key}", key)

    def answer_text(self, key: str, value: str) -> str:
        """The expected continuation."""
        return self.answer.replace("{key}", key).replace("{value}", value)


def load_format(path: Path) -> NeedleFormat:
    """Read a format from YAML; ConfigError names the key that is wrong."""
    return load(NeedleFormat, path)


@dataclass(frozen=True)
class NeedlePrompt:
    """Token ids of a prompt, the expected answer, and the recipe that rebuilds both."""

    ids: list[int]
    answer: str
    recipe: dict[str, Any]


def draw_recipe(
    fmt: NeedleFormat,
    *,
    length: int,
    depth: float,
    distractors: int,
    rng: np.random.Generator,
    haystack_tokens: int,
) -> dict[str, Any]:
    """Everything random about a prompt, as JSON values.

    `items[0]` is the needle asked for, the others are distractors with other keys and other values. `at` is
    a place in the filler as a fraction, `offset` the filler's first token in the haystack.
    """
    if distractors + 1 > len(fmt.keys):
        raise InputError(
            f"format {fmt.name}: too many distractors",
            expected=f"< {len(fmt.keys)} (keys)",
            received=distractors,
        )
    if not isinstance(fmt.values, str) and len(set(fmt.values)) ** fmt.value_words <= distractors:
        raise InputError(f"format {fmt.name}: too few values for different distractors", received=distractors)
    if not 0 <= depth <= 100:
        raise InputError("a depth is a percentage", expected="0 to 100", received=depth)
    keys = [fmt.keys[int(i)] for i in rng.choice(len(fmt.keys), distractors + 1, replace=False)]
    values = draw_distinct(fmt.values, fmt.value_words, distractors + 1, rng)
    places = [depth / 100, *(float(x) for x in rng.random(distractors))]
    items = [{"key": k, "value": v, "at": a} for k, v, a in zip(keys, values, places, strict=True)]
    return {
        "format": fmt.name,
        "length": length,
        "offset": int(rng.integers(haystack_tokens)),
        "items": items,
    }


def assemble(
    fmt: NeedleFormat,
    encode: Encode,
    recipe: dict[str, Any],
    *,
    haystack_ids: Sequence[int],
    prefix_ids: Sequence[int] = (),
    suffix_ids: Sequence[int] = (),
) -> NeedlePrompt:
    """Prompt of a recipe: prompt tokens plus answer tokens make exactly the recipe's length.

    The haystack is read in a circle, so any length can be filled. Raises InputError when needles,
    question and answer alone exceed the length.
    """
    asked = recipe["items"][0]
    answer = fmt.answer_text(asked["key"], asked["value"])
    question = [*encode(fmt.question_text(asked["key"])), *suffix_ids]
    needles = [encode(fmt.needle_text(item["key"], item["value"])) for item in recipe["items"]]
    fixed = len(prefix_ids) + sum(map(len, needles)) + len(question) + len(encode(answer))
    fill = recipe["length"] - fixed
    if fill < 0:
        raise InputError(
            f"format {fmt.name}: the prompt does not fit the length",
            expected=f"at least {fixed} tokens",
            received=recipe["length"],
            remedy="ask for a longer length or fewer distractors",
        )
    filler = circle(haystack_ids, recipe["offset"], fill)
    cuts = [round(item["at"] * fill) for item in recipe["items"]]
    ids = [
        *prefix_ids,
        *interleave(filler, sorted(zip(cuts, needles, strict=True), key=lambda c: c[0])),
        *question,
    ]
    return NeedlePrompt(ids=ids, answer=answer, recipe=recipe)


def evaluation_prompt(
    fmt: NeedleFormat,
    encode: Encode,
    *,
    length: int,
    depth: float,
    distractors: int,
    rng: np.random.Generator,
    haystack_ids: Sequence[int],
    prefix_ids: Sequence[int] = (),
    suffix_ids: Sequence[int] = (),
) -> NeedlePrompt:
    """Draw one prompt and assemble it; `length` counts prompt and answer tokens, `depth` is in percent."""
    recipe = draw_recipe(
        fmt, length=length, depth=depth, distractors=distractors, rng=rng, haystack_tokens=len(haystack_ids)
    )
    return assemble(
        fmt, encode, recipe, haystack_ids=haystack_ids, prefix_ids=prefix_ids, suffix_ids=suffix_ids
    )


def circle(ids: Sequence[int], offset: int, count: int) -> list[int]:
    """`count` ids from `offset` on, beginning again at the end."""
    first = list(ids[offset : offset + count])
    while len(first) < count:
        first.extend(ids[: count - len(first)])
    return first


def interleave(filler: Sequence[int], inserts: Sequence[tuple[int, Sequence[int]]]) -> list[int]:
    """Filler with each insert placed before the filler token its cut names; cuts ascend."""
    out: list[int] = []
    start = 0
    for cut, ids in inserts:
        out.extend(filler[start:cut])
        out.extend(ids)
        start = cut
    out.extend(filler[start:])
    return out
