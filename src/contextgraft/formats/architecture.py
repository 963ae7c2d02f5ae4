"""Which models can exchange deltas: the same architecture, and the same shape of every tensor."""

from collections.abc import Mapping
from typing import Any

from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.errors import MismatchError
from contextgraft.formats.model.same_language_model import compute_alike, language_model_type, stands_alone
from contextgraft.formats.tensor_names import layer_of, rows_are_tokens
from contextgraft.rope.model_class import resolve
from contextgraft.rope.text_section import text_section

SAME_BASE = "both must come from the same base"
OTHER_HEAD = (
    "the other is of another class of the model, such as a classifier: use a model of that class, or leave "
    "this module out (extract --exclude)"
)
OTHER_LAYOUT = (
    "experts may be stacked in one and stored one by one in the other: save both alike, or merge an adapter "
    "by PEFT (merge_and_unload)"
)
OTHER_CLASS = (
    "both must come from the same base; classes may differ only where one is the language model inside the "
    "other and transformers computes the same from both"
)
SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads")  # what a class has under any name
TYPE, TEXT_TYPE = "model_type", "text_model_type"


def architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config's values on which two models must agree, with the defaults of transformers filled in."""
    top, config = config, text_section(config)
    text_type = config.get(TYPE)
    if any(config.get(key) is None for key in SIZES) and (resolved := resolve(top)) is not None:
        config = resolved.values
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    head_dim = hidden // heads if isinstance(heads, int) and isinstance(hidden, int) and heads else None
    return {
        TYPE: top.get(TYPE),
        **({TEXT_TYPE: text_type} if text_type not in (None, top.get(TYPE)) else {}),
        "num_hidden_layers": config.get("num_hidden_layers"),
        "hidden_size": hidden,
        "intermediate_size": config.get("intermediate_size"),
        "num_attention_heads": heads,
        "num_key_value_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or head_dim,
    }


def architecture_differences(
    expected: Mapping[str, Any], received: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """The values in which an architecture differs from the expected one, each with both.

    Types may differ where one is a language model inside a model of several towers, and transformers' classes
    of both compute the same: classes are then compared by their results.
    """
    sizes = {
        key: (value, received.get(key))
        for key, value in expected.items()
        if value is not None and key not in (TYPE, TEXT_TYPE) and received.get(key) != value
    }
    if _same_type(expected, received, alike=not sizes):
        return sizes
    key = TYPE if expected.get(TYPE) != received.get(TYPE) else TEXT_TYPE
    return {key: (expected.get(key), received.get(key)), **sizes}


def check_architecture(model: ModelFolder, other: str, expected: Mapping[str, Any]) -> None:
    """Raise MismatchError naming the first value in which `model` differs from `other`'s, `expected`."""
    differing = architecture_differences(expected, architecture(model.config))
    if differing:
        key, (value, received) = next(iter(differing.items()))
        raise MismatchError(
            f"has another architecture than {other}",
            path=model.path,
            expected=f"{key} {value}",
            received=f"{key} {received}",
            remedy=OTHER_CLASS if key in (TYPE, TEXT_TYPE) else SAME_BASE,
        )


def _same_type(expected: Mapping[str, Any], received: Mapping[str, Any], *, alike: bool) -> bool:
    """Whether the language models are of one type, or `alike` in size and computed alike."""
    sides = (expected, received)
    types = [side.get(TYPE) for side in sides]
    texts = [side.get(TEXT_TYPE) for side in sides]
    if types[0] is None or (types[0] == types[1] and (texts[0] == texts[1] or None in texts)):
        return True
    if not alike or types[1] is None:
        return False
    inner = [text or language_model_type(str(kind)) for kind, text in zip(types, texts, strict=True)]
    if inner[0] is None or inner[1] is None:
        return False
    return inner[0] == inner[1] or (not all(map(stands_alone, inner)) and compute_alike(inner[0], inner[1]))


def check_shape(model: ModelFolder, name: str, other: str, shape: tuple[int, ...]) -> None:
    """Raise MismatchError if `model` lacks a tensor that `other` has, or has it in another shape."""
    info = model.tensors.get(name)
    if info is None or info.shape != shape:
        raise MismatchError(
            f"does not fit {other} at tensor {name!r}",
            path=model.path,
            expected=f"shape {list(shape)}",
            received="no such tensor" if info is None else f"shape {list(info.shape)}",
            remedy=_remedy(name, missing=info is None),
        )


def _remedy(name: str, *, missing: bool) -> str:
    if rows_are_tokens(name):
        return f"{SAME_BASE}, with embeddings tied or untied alike"
    if missing and ".experts." in name:
        return OTHER_LAYOUT
    return OTHER_HEAD if missing and layer_of(name) is None else SAME_BASE
