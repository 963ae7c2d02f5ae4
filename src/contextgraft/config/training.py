"""The recipe of a training run: what `contextgraft train --config FILE` takes."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from contextgraft.config.base import Frozen, load


class Published(Frozen):
    """What a stage took where it was first run."""

    gpus: int = Field(gt=0)
    minutes: float = Field(gt=0, description="of wall time")


class Stage(Frozen):
    """Some steps at one length. Theta comes from the recipe's rule unless it is given here."""

    length: int = Field(gt=1, description="tokens of a sequence")
    steps: int = Field(gt=0, description="optimiser steps")
    tokens: int = Field(gt=0, description="tokens of a batch; length divides it")
    theta: float | None = Field(default=None, gt=0, description="RoPE theta, instead of the rule's")
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        exclude_if=lambda rate: rate is None,
        description="peak of this stage, instead of the optimiser's",
    )
    published: Published | None = Field(
        default=None,
        exclude_if=lambda published: published is None,
        description="what it took where it was first run: `--plan` compares",
    )

    @model_validator(mode="after")
    def check(self) -> Self:
        """A batch is whole sequences."""
        if self.tokens % self.length:
            raise ValueError(f"tokens ({self.tokens}) must be a multiple of length ({self.length})")
        return self


class Replay(Frozen):
    """Short batches among the long ones, so that what was known at short lengths stays known."""

    share: float = Field(default=0.0, ge=0, lt=1, description="part of all steps that are short")
    lengths: tuple[int, ...] = Field(default=(), description="lengths of short sequences, in turn")
    tokens: int = Field(default=0, ge=0, description="tokens of a short batch")

    @model_validator(mode="after")
    def check(self) -> Self:
        """A share needs lengths, and batches of whole sequences."""
        if self.share and (not self.lengths or any(n < 2 or self.tokens % n for n in self.lengths)):
            raise ValueError("replay needs lengths of at least 2 that each divide its tokens")
        if self.share and not self.tokens:
            raise ValueError("replay needs tokens")
        return self


class Source(Frozen):
    """What every kind of data has."""

    weight: float = Field(
        default=1.0, gt=0, description="how often batches come from here, against the others"
    )
    lengths: tuple[int, ...] | None = Field(
        default=None, description="only batches of these lengths come from here"
    )


class NeedleSource(Source):
    """Needles and questions in a haystack, many in a document."""

    kind: Literal["needle"]
    format: Path = Field(description="needle format (YAML), relative to the recipe")
    haystack: str | None = Field(default=None, description="text instead of the format's haystack")
    filler_weight: float = Field(default=0.05, ge=0, le=1, description="loss weight of haystack tokens")
    least: int = Field(default=2, ge=1, description="fewest needles in a document")
    most: int = Field(default=15, ge=1, description="most needles in a document")
    spacing: int = Field(default=12, ge=1, description="at least so many tokens of document for each needle")
    queries: float = Field(default=1.3, ge=0, description="questions for each needle, rounded down, plus one")

    @model_validator(mode="after")
    def check(self) -> Self:
        """The most are no fewer than the fewest."""
        if self.most < self.least:
            raise ValueError(f"most ({self.most}) must be at least least ({self.least})")
        return self


class RepeatSource(Source):
    """Random tokens, repeated: a dense exercise in copying."""

    kind: Literal["repeat"]
    first: int = Field(default=0, ge=0, description="smallest token id drawn (skip special tokens)")


class TextSource(Source):
    """Plain text cut into sequences."""

    kind: Literal["text"]
    text: str = Field(description="a shipped text by name, or a path relative to the recipe")


class PairsSource(Source):
    """Prompt and answer, one JSON object a line; alone or among haystack."""

    kind: Literal["pairs"]
    file: Path = Field(description='JSONL of {"prompt", "answer"}, relative to the recipe')
    ending: str = Field(default="", description="text behind an answer")
    haystack: str | None = Field(
        default=None, description="text around the pairs; without it they are packed"
    )
    count: int = Field(default=6, ge=1, description="pairs in a document, among haystack")
    filler_weight: float = Field(default=0.05, ge=0, le=1, description="loss weight of haystack tokens")


class DocumentsSource(Source):
    """Documents packed to sequences, each read once before any is read again."""

    kind: Literal["documents"]
    hub: str | None = Field(
        default=None,
        exclude_if=lambda source: source is None,
        pattern=r"^hf:datasets/[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*(@[^\s@]+)?$",
        description="data set of the hub that has the files: hf:datasets/OWNER/NAME[@REVISION]",
    )
    files: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=1,
        description="patterns of .txt (a document each), .jsonl or .json (an object a line), .parquet; text "
        "may be compressed (.gz, .zst, .bz2, .lz4); relative to the recipe, or in the data set",
    )
    column: str = Field(default="text", description="where all but .txt have the text")


AnySource = Annotated[
    NeedleSource | RepeatSource | TextSource | PairsSource | DocumentsSource, Field(discriminator="kind")
]


Beta = Annotated[float, Field(ge=0, lt=1)]


class Optimiser(Frozen):
    """AdamW with linear warm-up and cosine decay over all stages."""

    learning_rate: float = Field(gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    weight_decay: float = Field(default=0.0, ge=0, description="of matrices only")
    clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    warmup: int = Field(default=10, ge=0, description="steps")
    final: float = Field(
        default=0.0, ge=0, le=1, description="learning rate at the end, as a part of the peak"
    )


class Lora(Frozen):
    """Factors beside the linear layers instead of the layers themselves."""

    rank: int = Field(gt=0)
    alpha: float = Field(gt=0, description="the factors' product is scaled by alpha / rank")


class Recipe(Frozen):
    """A whole run: stages, data, optimiser, and which tensors may move."""

    name: str = Field(description="name of the resulting model")
    stages: tuple[Stage, ...] = Field(min_length=1)
    theta: Literal["keep", "progressive", "absolute"] = Field(
        default="keep", description="rule for RoPE theta of stages that do not give it"
    )
    margin: float = Field(default=1.0, gt=0, description="the rule is asked for length times this")
    max_positions: int | None = Field(
        default=None, gt=0, description="context the result claims; the longest stage if not given"
    )
    replay: Replay = Replay()
    data: tuple[AnySource, ...] = Field(min_length=1)
    optimiser: Optimiser
    trainable: tuple[Literal["linear", "norms", "embeddings"], ...] = Field(
        default=("linear", "norms", "embeddings"), min_length=1, description="groups of tensors that move"
    )
    lora: Lora | None = Field(
        default=None,
        exclude_if=lambda lora: lora is None,
        description="train factors of the group linear; the result has them merged",
    )
    frozen_rows: int = Field(
        default=0, ge=0, description="so many first rows of the embeddings stay as they are"
    )
    activation_checkpointing: bool = Field(default=False, description="recompute activations: less memory")
    seed: int = Field(default=1, ge=0, description="what batches are drawn from")

    @model_validator(mode="after")
    def check(self) -> Self:
        """Every length that occurs has data, and factors have layers to stand beside."""
        if self.lora is not None and "linear" not in self.trainable:
            raise ValueError("lora needs linear among trainable")
        for length in {*(stage.length for stage in self.stages), *self.replay.lengths}:
            if not any(source.lengths is None or length in source.lengths for source in self.data):
                raise ValueError(f"no data for batches of length {length}")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from YAML; ConfigError names the key that is wrong."""
    return load(Recipe, path)
