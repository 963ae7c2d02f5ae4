"""Formats of needle-in-a-haystack questions, read from YAML, and the two ways ids are joined."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from contextgraft.config.base import Frozen, load
from contextgraft.errors import InputError
from contextgraft.prompts.generators import GENERATORS
from contextgraft.prompts.templates import Wording, check_slots

Encode = Callable[[str], list[int]]

KINDS = ("single", "multi_value", "multi_query", "chain")


class NeedleFormat(Frozen):
    """How a needle, its question and its answer are worded. Templates may use {key} and {value}."""

    name: str = Field(description="label of the format in results")
    intro: str = Field(default="", description="begins the prompt, before the haystack")
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
    multi_value: Wording | None = Field(default=None, description="wording where one key has several values")
    multi_query: Wording | None = Field(default=None, description="wording where several keys are asked for")
    chain: Wording | None = Field(default=None, description="wording of names assigned to each other")

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
        for kind in self.kinds()[1:]:
            check_slots(kind, self.wording(kind))
        return self

    def kinds(self) -> list[str]:
        """The kinds of questions this format has templates for."""
        return ["single", *(kind for kind in KINDS[1:] if getattr(self, kind) is not None)]

    def wording(self, kind: str) -> Wording:
        """Templates of a kind; what it leaves open is the format's own. InputError if it has none."""
        own = Wording(intro=self.intro, needle=self.needle, question=self.question, answer=self.answer)
        if kind == "single":
            return own
        if kind not in self.kinds():
            raise InputError(
                f"format {self.name} has no wording for {kind} questions",
                expected=f"one of {', '.join(self.kinds())}",
                received=kind,
                remedy=f"add a section {kind} to the format",
            )
        special: Wording = getattr(self, kind)
        return special.model_copy(
            update={
                "intro": special.intro or own.intro,
                "needle": special.needle or own.needle,
            }
        )

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
