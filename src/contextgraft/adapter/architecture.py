"""Which models can exchange deltas: the same architecture, and the same shape of every tensor."""

from collections.abc import Mapping
from typing import Any

from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.errors import MismatchError
from contextgraft.formats.tensor_names import rows_are_tokens
from contextgraft.rope.model_class import resolve
from contextgraft.rope.text_section import text_section

SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads")  # what a class has under any name


def architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config's values on which two models must agree, with the defaults of transformers filled in."""
    top, config = config, text_section(config)
    if any(config.get(key) is None for key in SIZES) and (resolved := resolve(top)) is not None:
        config = resolved.values
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    head_dim = hidden // heads if isinstance(heads, int) and isinstance(hidden, int) and heads else None
    return {
        "model_type": top.get("model_type"),
        "num_hidden_layers": config.get("num_hidden_layers"),
        "hidden_size": hidden,
        "intermediate_size": config.get("intermediate_size"),
        "num_attention_heads": heads,
        "num_key_value_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or head_dim,
    }


def check_architecture(model: ModelFolder, other: str, expected: Mapping[str, Any]) -> None:
    """Raise MismatchError naming the first value in which `model` differs from `other`'s, `expected`."""
    received = architecture(model.config)
    for key, value in expected.items():
        if value is not None and received.get(key) != value:
            raise MismatchError(
                f"has another architecture than {other}",
                path=model.path,
                expected=f"{key} {value}",
                received=f"{key} {received.get(key)}",
                remedy="both must come from the same base",
            )


def check_shape(model: ModelFolder, name: str, other: str, shape: tuple[int, ...]) -> None:
    """Raise MismatchError if `model` lacks a tensor that `other` has, or has it in another shape."""
    info = model.tensors.get(name)
    if info is None or info.shape != shape:
        raise MismatchError(
            f"does not fit {other} at tensor {name!r}",
            path=model.path,
            expected=f"shape {list(shape)}",
            received="no such tensor" if info is None else f"shape {list(info.shape)}",
            remedy="both must come from the same base"
            + (", with embeddings tied or untied alike" if rows_are_tokens(name) else ""),
        )
