"""Formats of needle-in-a-haystack questions, read from YAML."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails
from typing_extensions import override

from contextgraft.config.base import Frozen, load
from contextgraft.config.evaluation import Chat
from contextgraft.errors import InputError
from contextgraft.prompts.generators import GENERATORS
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS, SINGLE
from contextgraft.prompts.sampling import NeedlePools
from contextgraft.prompts.templates import Wording, check_pools, check_slots, fill_slots


class NeedleFormat(Frozen):
    """How a needle, its question and its answer are worded. Templates may use {key} and {value}.

    These fields are the wording of kind `single`. A section of the file, named after another kind of
    NEEDLE_KINDS, has the wording of that kind; it is an attribute, None where there is no such section.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Wording | None] = Field(init=False)

    name: str = Field(description="label of the format in results")
    intro: str = Field(default="", description="begins the prompt, before the haystack")
    needle: str = Field(description="sentence hidden in the haystack, with {key} and {value}")
    question: str = Field(description="end of the prompt, with {key}")
    lead: str = Field(
        default="",
        description="begins the answer, behind the question; in a chat it stands in the assistant's turn",
    )
    answer: str = Field(default="{value}", description="what the model should continue with")
    ending: str = Field(default="", description="what follows an answer in training documents")
    keys: tuple[str, ...] = Field(min_length=1, description="things that can have a value")
    values: tuple[str, ...] | str = Field(
        default="number", description=f"list of words, or a generator: {', '.join(GENERATORS)}"
    )
    value_words: int = Field(default=1, ge=1, description="number of words in a value, separated by spaces")
    haystack: str = Field(description="a shipped text by name, or a path relative to this file")
    scoring: Literal["exact", "contains"] = Field(default="exact", description="how output is compared")
    chat: Chat = Field(
        default=False, description="wrap the prompt in the model's chat template; auto: if it has one"
    )
    stop: tuple[str, ...] = Field(default=(), description="texts that end a generation")

    @classmethod
    @override
    def known_keys(cls) -> set[str]:
        return {*cls.model_fields, *NEEDLE_KINDS} - {SINGLE}

    @model_validator(mode="before")
    @classmethod
    def check_keys(cls, data: Any) -> Any:
        """Reject keys that are neither a field nor a kind; a kind without a section becomes None."""
        if not isinstance(data, dict):
            return data
        unknown = [str(key) for key in data if key not in cls.known_keys()]
        if unknown:
            problems = [
                InitErrorDetails(type="extra_forbidden", loc=(key,), input=data.get(key)) for key in unknown
            ]
            raise ValidationError.from_exception_data(cls.__name__, problems)
        return {**{kind: None for kind in NEEDLE_KINDS if kind != SINGLE}, **data}

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
            wording = self.wording(kind)
            check_slots(kind, wording)
            check_pools(kind, wording, wording.keys or self.keys, wording.values or self.values)
        return self

    def kinds(self) -> list[str]:
        """The kinds of questions this format has templates for; the first is `single`."""
        return [SINGLE, *(kind for kind, section in self.__pydantic_extra__.items() if section is not None)]

    def wording(self, kind: str) -> Wording:
        """Templates of a kind, completed by the format's own. InputError if the format lacks the kind."""
        own = Wording(
            intro=self.intro, needle=self.needle, question=self.question, answer=self.answer, lead=self.lead
        )
        if kind == SINGLE:
            return own
        section = self.__pydantic_extra__.get(kind)
        if section is None:
            raise InputError(
                f"format {self.name} has no wording for {kind} questions",
                expected=f"one of {', '.join(self.kinds())}",
                received=kind,
                remedy=f"add a section {kind} to the format",
            )
        return section.model_copy(
            update={"intro": section.intro or own.intro, "needle": section.needle or own.needle}
        )

    def pools(self, values: str | None = None, haystack: str = "", kind: str = SINGLE) -> NeedlePools:
        """What needles are sampled from; `values` is a generator to use instead of the format's values."""
        section = self.wording(kind)
        own = section.values is None and values is None
        return NeedlePools(
            f"format {self.name}",
            tuple(section.associations) or section.keys or self.keys,
            values or section.values or self.values,
            self.value_words if own else 1,
            haystack,
            clues=section.associations,
        )

    def needle_text(self, key: str, value: str) -> str:
        """The sentence that is hidden in the text."""
        return fill_slots(self.needle, key=key, value=value)

    def question_text(self, key: str) -> str:
        """The question that ends a prompt, with its lead."""
        return fill_slots(f"{self.question}{self.lead}", key=key)

    def answer_text(self, key: str, value: str) -> str:
        """The expected continuation of the prompt."""
        return fill_slots(self.answer, key=key, value=value)


def load_format(path: Path) -> NeedleFormat:
    """Read a format from YAML; ConfigError names the key that is wrong."""
    return load(NeedleFormat, path)
