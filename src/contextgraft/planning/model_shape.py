"""The shape of a Llama-like model, read from its config.json: parameters and bytes without any weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from contextgraft.errors import ConfigError, InputError

STORED = 2  # bytes of a weight in bfloat16 or float16
NEEDED = "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder with grouped-query attention and a gated MLP, no biases."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    tied: bool

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of the linear layers of one block, by the names of Llama."""
        wide, narrow = self.heads * self.head, self.kv_heads * self.head
        return {
            "self_attn.q_proj": (wide, self.hidden),
            "self_attn.k_proj": (narrow, self.hidden),
            "self_attn.v_proj": (narrow, self.hidden),
            "self_attn.o_proj": (self.hidden, wide),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }

    @property
    def matrices(self) -> int:
        """Weights of the linear layers of all blocks, which are what an adapter changes."""
        return self.layers * sum(rows * columns for rows, columns in self.linear.values())

    @property
    def parameters(self) -> int:
        """All weights: linear layers, norms, embeddings, and an untied output layer."""
        norms = (2 * self.layers + 1) * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.matrices + norms + embeddings

    @property
    def size(self) -> int:
        """Bytes of the weights as they are stored."""
        return STORED * self.parameters

    @property
    def kv_token(self) -> int:
        """Bytes of keys and values a token: 2 * layers * kv_heads * head size * bytes."""
        return 2 * self.layers * self.kv_heads * self.head * STORED

    @classmethod
    def of(cls, config: Mapping[str, Any], source: Path | str) -> Self:
        """From a parsed config.json; ConfigError names what it lacks."""
        sizes = {name: config.get(name) for name in NEEDED}
        wrong = [name for name, size in sizes.items() if type(size) is not int or size < 1]
        if wrong:
            raise ConfigError(
                "does not say the model's shape",
                path=source,
                expected=f"a positive whole number for each of {', '.join(NEEDED)}",
                received=f"{wrong[0]}: {sizes[wrong[0]]!r}",
            )
        layers, hidden, intermediate, heads, vocabulary = (int(config[name]) for name in NEEDED)
        return cls(
            layers=layers,
            hidden=hidden,
            intermediate=intermediate,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head=int(config.get("head_dim") or hidden // heads),
            vocabulary=vocabulary,
            tied=bool(config.get("tie_word_embeddings", False)),
        )


def read_shape(path: Path) -> Shape:
    """Shape of a model, from its config.json or the folder that holds it."""
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot read the shape of the model", path=file, received=str(error)) from None
    except ValueError as error:
        raise ConfigError("is not valid JSON", path=file, received=str(error)) from None
    if not isinstance(config, dict):
        raise ConfigError("is not a model's config.json", path=file, expected="a JSON object")
    return Shape.of(config, file)
