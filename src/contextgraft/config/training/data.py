"""Kinds of training data in a recipe."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from contextgraft.config.base import Frozen, Name
from contextgraft.config.evaluation import Chat

MAX_LENGTH = 2**30  # far above what was ever trained
Length = Annotated[int, Field(gt=1, le=MAX_LENGTH)]


class DataSource(Frozen):
    """The settings that all kinds of data have."""

    weight: float = Field(default=1.0, gt=0, description="relative frequency of batches from this source")
    lengths: tuple[Length, ...] | None = Field(
        default=None, description="use this source only for batches of these lengths"
    )


class NeedleSource(DataSource):
    """Documents with many needles and questions in a haystack."""

    kind: Literal["needle"]
    format: Path = Field(description="needle format (YAML), relative to the recipe")
    question: Name = Field(
        default="single",
        exclude_if=lambda question: question == "single",
        description="kind of question, with a section of its name in the format; chat and the numbers of "
        "needles and queries below are for `single` only",
    )
    haystack: str | None = Field(default=None, description="text instead of the format's haystack")
    filler_weight: float = Field(default=0.05, ge=0, le=1, description="loss weight of haystack tokens")
    least: int = Field(default=2, ge=1, le=MAX_LENGTH, description="fewest needles in a document")
    most: int = Field(default=15, ge=1, le=MAX_LENGTH, description="most needles in a document")
    spacing: int = Field(
        default=12, ge=1, description="minimum number of tokens in a document for each needle"
    )
    queries: float = Field(default=1.3, ge=0, description="questions for each needle, rounded down, plus one")
    chat: Chat = Field(
        default=False,
        exclude_if=lambda chat: chat is False,
        description="a chat in the tokenizer's template: the first message has the text and a question, each "
        "other one a question; auto: if there is a template",
    )

    @model_validator(mode="after")
    def check(self) -> Self:
        """`most` is not smaller than `least`; settings of single needles are not given for another kind."""
        if self.most < self.least:
            raise ValueError(f"most ({self.most}) must be at least least ({self.least})")
        if self.question == "single":
            return self
        numbers = ("least", "most", "spacing", "queries")
        if self.chat or any(getattr(self, name) != type(self).model_fields[name].default for name in numbers):
            raise ValueError(
                f"chat, {', '.join(numbers)} are settings of single needles, and cannot be combined with "
                f"question: {self.question}"
            )
        return self


class RepeatSource(DataSource):
    """A random string of tokens, repeated: the model learns to copy."""

    kind: Literal["repeat"]
    first: int = Field(default=0, ge=0, description="smallest token id sampled (excludes special tokens)")


class TextSource(DataSource):
    """Plain text cut into sequences."""

    kind: Literal["text"]
    text: str = Field(description="a shipped text by name, or a path relative to the recipe")


class PairsSource(DataSource):
    """Prompts with answers, one JSON object on each line; packed or inside a haystack."""

    kind: Literal["pairs"]
    file: Path = Field(description='JSONL of {"prompt", "answer"}, relative to the recipe')
    ending: str = Field(default="", description="text after an answer")
    haystack: str | None = Field(
        default=None, description="text around the pairs; without it they are packed"
    )
    count: int = Field(default=6, ge=1, le=MAX_LENGTH, description="pairs in a document with haystack")
    filler_weight: float = Field(default=0.05, ge=0, le=1, description="loss weight of haystack tokens")
    chat: Chat = Field(
        default=False,
        exclude_if=lambda chat: chat is False,
        description="each pair is a chat in the tokenizer's template; auto: if there is a template",
    )

    @model_validator(mode="after")
    def check(self) -> Self:
        """Chats are packed."""
        if self.chat and self.haystack:
            raise ValueError("chat and haystack cannot be combined: chats are packed one after the other")
        return self


class ChatSource(DataSource):
    """Conversations in the tokenizer's chat template, packed; the assistant's messages are trained."""

    kind: Literal["chat"]
    file: Path = Field(
        description='JSONL of {"messages": [{"role": role, "content": text}, ...]}, relative to the recipe'
    )


class DocumentsSource(DataSource):
    """Documents packed to sequences; no document is repeated before all were read."""

    kind: Literal["documents"]
    hub: str | None = Field(
        default=None,
        exclude_if=lambda source: source is None,
        pattern=r"^hf:datasets/[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*(@[^\s@]+)?$",
        description="data set of the hub that has the files: hf:datasets/OWNER/NAME[@REVISION]",
    )
    files: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=1,
        description="patterns of .txt (one document), .jsonl or .json (one object on each line), .parquet; "
        "text may be compressed (.gz, .zst, .bz2, .lz4); relative to the recipe, or in the data set",
    )
    column: str = Field(
        default="text",
        description="column or key of the text, except in .txt; input_ids has lists of token ids",
    )
    mask: Literal["causal", "block_causal"] = Field(
        default="causal",
        exclude_if=lambda mask: mask == "causal",
        description="what a token sees of a packed sequence: everything before it, or only its own document",
    )
    read: Literal["all", "needed"] = Field(
        default="all",
        exclude_if=lambda read: read == "all",
        description="all: the sequences are drawn from all documents; needed: documents are read in the "
        "order of the files until the recipe has its sequences",
    )


AnySource = Annotated[
    NeedleSource | RepeatSource | TextSource | PairsSource | ChatSource | DocumentsSource,
    Field(discriminator="kind"),
]
