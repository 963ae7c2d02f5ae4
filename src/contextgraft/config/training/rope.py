"""Scaled RoPE of a stage, in the words of transformers' `rope_parameters`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from contextgraft.config.base import Frozen
from contextgraft.config.training.data import Length

Positive = Annotated[float, Field(gt=0)]


class ScaledRope(Frozen):
    """What all types have."""

    factor: float | None = Field(
        default=None,
        ge=1,
        description="the length as a multiple of the original; default: that of the stage, or of the base if "
        "it is more, divided by the original",
    )
    original_max_position_embeddings: Length | None = Field(
        default=None, description="the length before scaling; default: the base's max_position_embeddings"
    )
    attention_factor: float | None = Field(
        default=None, ge=0, description="cosine and sine are multiplied by it; default: from factor"
    )

    def parameters(self) -> dict[str, Any]:
        """The keys that are given, without the type."""
        return self.model_dump(mode="json", exclude_none=True, exclude={"rope_type"})


class Yarn(ScaledRope):
    """YaRN (Peng et al. 2023, arXiv 2309.00071)."""

    rope_type: Literal["yarn"]
    beta_fast: Positive | None = Field(default=None, description="default: 32")
    beta_slow: Positive | None = Field(default=None, description="default: 1")


class LongRope(ScaledRope):
    """LongRoPE (Ding et al. 2024, arXiv 2402.13753); in one process only."""

    rope_type: Literal["longrope"]
    short_factor: tuple[Positive, ...] = Field(
        min_length=1, description="a divisor of each frequency for sequences up to the original length"
    )
    long_factor: tuple[Positive, ...] = Field(min_length=1, description="likewise for longer ones")


AnyRope = Annotated[Yarn | LongRope, Field(discriminator="rope_type")]
