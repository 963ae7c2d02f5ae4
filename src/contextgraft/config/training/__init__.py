"""The recipe of a training run, the file of `contextgraft train --config`."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from contextgraft.config.base import Frozen, load
from contextgraft.config.training.data import MAX_LENGTH, AnySource, DocumentsSource, Length
from contextgraft.config.training.rope import AnyRope

# Far above what was ever trained: larger numbers are mistakes, which would end in a lack of memory.
MAX_TOKENS = 2**40
MAX_STEPS = 10**6
MAX_RANK = 2**16


class Published(Frozen):
    """The resources of a stage where it was first run."""

    gpus: int = Field(gt=0)
    minutes: float = Field(gt=0, description="of wall time")


class Stage(Frozen):
    """Steps at one length. Theta is computed by the rule of the recipe unless it is given here."""

    length: Length = Field(description="tokens of a sequence")
    steps: int = Field(gt=0, le=MAX_STEPS, description="optimiser steps")
    tokens: int = Field(gt=0, le=MAX_TOKENS, description="tokens of a batch; length divides it")
    target_length: Length | None = Field(
        default=None,
        exclude_if=lambda length: length is None,
        description="with positions pose: the length of a context whose positions the sequences have",
    )
    theta: float | None = Field(default=None, gt=0, description="RoPE theta, instead of that of the rule")
    rope: AnyRope | None = Field(
        default=None,
        exclude_if=lambda rope: rope is None,
        description="scaled RoPE, instead of the base's; it needs theta: keep, or theta in the stage",
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        exclude_if=lambda rate: rate is None,
        description="peak of this stage, instead of that of the optimiser",
    )
    published: Published | None = Field(
        default=None,
        exclude_if=lambda published: published is None,
        description="resources where it was first run, for comparison in the plan",
    )

    @property
    def context(self) -> int:
        """The length of a context for which the stage trains."""
        return self.target_length or self.length

    @model_validator(mode="after")
    def check(self) -> Self:
        """A batch is whole sequences, and a context is not shorter than they are."""
        if self.tokens % self.length:
            raise ValueError(f"tokens ({self.tokens}) must be a multiple of length ({self.length})")
        if self.context < self.length:
            raise ValueError(f"target_length ({self.context}) must be at least length ({self.length})")
        return self


class ReplayConfig(Frozen):
    """Short batches between the long ones, so that the model does not forget short texts."""

    share: float = Field(default=0.0, ge=0, lt=1, description="fraction of all steps that are short")
    lengths: tuple[Length, ...] = Field(default=(), description="lengths of short sequences, in turn")
    tokens: int = Field(default=0, ge=0, le=MAX_TOKENS, description="tokens of a short batch")

    @model_validator(mode="after")
    def check(self) -> Self:
        """A share needs lengths, and batches of whole sequences."""
        if self.share and (not self.lengths or any(self.tokens % length for length in self.lengths)):
            raise ValueError("replay needs lengths that each divide its tokens")
        if self.share and not self.tokens:
            raise ValueError("replay needs tokens")
        return self


Beta = Annotated[float, Field(ge=0, lt=1)]


class Optimiser(Frozen):
    """AdamW with linear warm-up and cosine decay over all stages."""

    learning_rate: float = Field(gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    weight_decay: float = Field(default=0.0, ge=0, description="of matrices only")
    clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    warmup: int = Field(default=10, ge=0, description="steps")
    final: float = Field(
        default=0.0, ge=0, le=1, description="learning rate at the end, as a fraction of the peak"
    )
    offload: bool = Field(
        default=False,
        exclude_if=lambda offloaded: not offloaded,
        description="keep the moments in host memory: less memory of a GPU, the same numbers",
    )


class Lora(Frozen):
    """Train low-rank factors of the linear layers instead of the layers."""

    rank: int = Field(gt=0, le=MAX_RANK)
    alpha: float = Field(gt=0, description="the factors' product is scaled by alpha / rank")


class Recipe(Frozen):
    """A training run: stages, data, optimiser, and which tensors are trained."""

    name: str = Field(description="name of the resulting model")
    stages: tuple[Stage, ...] = Field(min_length=1)
    theta: Literal["keep", "progressive", "absolute"] = Field(
        default="keep", description="rule for the RoPE theta of stages that do not set it"
    )
    margin: float = Field(
        default=1.0, gt=0, description="the rule computes theta for this factor times the length"
    )
    positions: Literal["consecutive", "pose"] = Field(
        default="consecutive",
        exclude_if=lambda positions: positions == "consecutive",
        description="position ids of sequences, short ones aside; pose (arXiv 2309.10400) skips positions up "
        "to the stage's target_length",
    )
    pose_chunks: int = Field(
        default=2,
        ge=2,
        exclude_if=lambda chunks: chunks == 2,
        description="with positions pose: chunks of a sequence, each at positions of its own",
    )
    max_positions: int | None = Field(
        default=None,
        gt=0,
        le=MAX_LENGTH,
        description="max_position_embeddings of the result, not less than the base's; by default that "
        "of the longest stage, or the base's if that is more",
    )
    replay: ReplayConfig = ReplayConfig()
    data: tuple[AnySource, ...] = Field(min_length=1)
    optimiser: Optimiser
    trainable: tuple[Literal["linear", "norms", "embeddings"], ...] = Field(
        default=("linear", "norms", "embeddings"),
        min_length=1,
        description="groups of tensors that are trained",
    )
    lora: Lora | None = Field(
        default=None,
        exclude_if=lambda lora: lora is None,
        description="train low-rank factors of the group linear; they are merged into the result",
    )
    frozen_rows: int = Field(
        default=0, ge=0, description="number of first rows of the embeddings that are not trained"
    )
    activation_checkpointing: Literal[True, False, "selective"] = Field(
        default=False,
        description="recompute activations: less memory; selective keeps the outputs of attention, so that "
        "attention is not recomputed",
    )
    activation_offloading: bool = Field(
        default=False,
        exclude_if=lambda offloaded: not offloaded,
        description="keep what activation_checkpointing keeps in host memory: less memory of a GPU",
    )
    dtype: Literal["float32", "bfloat16"] | None = Field(
        default=None,
        exclude_if=lambda dtype: dtype is None,
        description="dtype of activations, unless --dtype is given; default: float32, bfloat16 on GPUs",
    )
    mlp_tiles: int = Field(
        default=1,
        ge=1,
        le=MAX_LENGTH,
        exclude_if=lambda tiles: tiles == 1,
        description="compute MLPs in so many tiles of a sequence: less memory, their forward pass once more",
    )
    compile: bool = Field(
        default=False,
        exclude_if=lambda compiled: not compiled,
        description="torch.compile for norms and MLPs; the same numbers but for rounding",
    )
    seed: int = Field(default=1, ge=0, description="seed of the batches")

    @property
    def has_block_causal(self) -> bool:
        """Whether documents of some source do not see each other."""
        return any(isinstance(source, DocumentsSource) and source.mask != "causal" for source in self.data)

    @model_validator(mode="after")
    def check(self) -> Self:
        """Every length has data, and LoRA has linear layers to train."""
        if self.activation_offloading and not self.activation_checkpointing:
            raise ValueError("activation_offloading needs activation_checkpointing")
        if self.positions == "pose" and self.has_block_causal:
            raise ValueError("positions pose and mask block_causal cannot be combined")
        if self.lora is not None and "linear" not in self.trainable:
            raise ValueError("lora needs linear among trainable")
        for number, stage in enumerate(self.stages):
            if (self.positions == "pose") != (stage.target_length is not None):
                raise ValueError(f"stages.{number}: positions pose needs target_length, which needs it")
            if stage.rope is not None and stage.theta is None and self.theta != "keep":
                raise ValueError(f"stages.{number}: rope needs theta: keep, or theta in the stage")
            if stage.target_length and self.pose_chunks > stage.length:
                raise ValueError(f"stages.{number}: pose_chunks ({self.pose_chunks}) is more than its length")
        for length in {*(stage.length for stage in self.stages), *self.replay.lengths}:
            if not any(source.lengths is None or length in source.lengths for source in self.data):
                raise ValueError(f"no data for batches of length {length}")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from YAML; ConfigError names the key that is wrong."""
    return load(Recipe, path)
