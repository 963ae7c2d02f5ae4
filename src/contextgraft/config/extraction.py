"""What a study's adapters carry, and who factorises them."""

from typing import Literal

from pydantic import Field

from contextgraft.config.base import Frozen


class Extraction(Frozen):
    """Which tensors get factors; the defaults are all linear layers, by contextgraft itself."""

    embeddings: Literal["both", "input", "output"] | None = Field(
        default=None, description="carry embed_tokens (input), lm_head (output) or both, aligned by token"
    )
    include: str = Field(
        default="", description="regular expression: carry only tensors whose name it matches"
    )
    exclude: str | None = Field(default=None, description="regular expression: leave these tensors out")
    backend: Literal["contextgraft", "mergekit"] = Field(
        default="contextgraft",
        description="mergekit: its own command, one run a rank, as the published adapters were made",
    )
