"""What the names of a model's tensors mean: layers, embeddings, kinds of module, rotary heads.

An architecture with other names than Llama's is described here, by the tables below; no other module looks
into a name.
"""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.errors import CheckpointError

FLOATS = ("F32", "F16", "BF16")
LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")
# towers of other modalities, and heads that predict several tokens: transformers' text models have neither
OTHER_TOWER = re.compile(
    r"(?:^|[._])(?:vision|visual|image|img|vit|audio|speech|sound|talker|token2wav|code2wav|mtp|projector|connector)(?:[._]|$)"
)
POSITIONS = ("wpe", "embed_positions", "position_embeddings", "position_embedding")  # learned: a row each
# what wrappers of training add to names: torch.compile, DistributedDataParallel, FSDP, checkpointing, TRL
WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "pretrained_model")
# components in front of a text model's layers that differ between a checkpoint, its class and its text tower
NEUTRAL = (
    "model",
    "language_model",
    "text_model",
    "transformer",
    "gpt_neox",
    "gpt_neox_japanese",
    "biogpt",
    "rwkv",
    "decoder",
    "backbone",
    "thinker",
)
# what older classes stored and computed from the config, and what MiniMax still does
BUFFERS = (
    "inv_freq", "cos_cached", "sin_cached", "causal_mask", "masked_bias", "position_ids",
    "slope_rate", "query_decay", "key_decay", "diagonal_decay",
)  # fmt: skip
# transformers' Conv1D, by model_type: modules whose weights are stored [in, out]
TRANSPOSED = dict.fromkeys(
    ("gpt2", "openai-gpt", "imagegpt", "decision_transformer"), ("c_attn", "c_proj", "c_fc", "q_attn")
)
RENAMED = {"block_sparse_moe": "mlp"}  # by transformers 5, when it loads
INPUTS = (
    "embed_tokens",
    "embed_in",
    "word_embeddings",
    "wte",
    "tok_embeddings",
    "embeddings",
    "embed_tokens_per_layer",
)
# decoder: ModernBERT's, of a dense head; output, output_layer: of code in repositories (InternLM 2, ChatGLM)
OUTPUTS = ("lm_head", "embed_out", "output_projection", "decoder", "output", "output_layer")
# names of charts and tables, in the order of a layer; a module that is not listed goes by its own name
SHORT_KINDS = {
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "o_proj": "o",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
}
# modules whose rows the rotary embedding rotates, and the config's number of their heads
ROTARY_HEADS = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}


class TensorRole(StrEnum):
    """What becomes of a tensor's delta."""

    LINEAR = "linear"  # factorised
    INPUT = "input"  # token embeddings: factorised by token, if selected
    OUTPUT = "output"  # lm_head: likewise
    DENSE = "dense"  # norms, biases, short convolutions, learned positions: stored in full
    IGNORED = "ignored"  # buffers, and what was not selected: only reported
    UNSUPPORTED = "unsupported"  # no adapter carries it: a donor that changes it is refused


EMBEDDINGS = dict.fromkeys(INPUTS, TensorRole.INPUT) | dict.fromkeys(OUTPUTS, TensorRole.OUTPUT)
FACTORISED = (TensorRole.LINEAR, TensorRole.INPUT, TensorRole.OUTPUT)
BY_TOKEN = (TensorRole.INPUT, TensorRole.OUTPUT)


def tensor_role(info: TensorInfo, folder: Path) -> TensorRole:
    """LINEAR for every 2-D weight and stack of them, DENSE for small tensors; embeddings go by name.

    Towers of other modalities and heads for several tokens are IGNORED.

    Weights in layers that are quantised, or have more dimensions than stacked matrices, raise CheckpointError
    by name.
    """
    if OTHER_TOWER.search(info.name) or is_buffer(info) or not info.numel:
        return TensorRole.IGNORED
    in_layer = layer_of(info.name) is not None
    has_other_form = len(info.shape) > 3 and not _is_vector(info)
    if in_layer and (has_other_form or (len(info.shape) > 1 and info.dtype not in FLOATS)):
        raise CheckpointError(
            f"tensor {info.name!r} cannot be factorised",
            path=folder / info.shard,
            expected=f"a matrix, or matrices of experts, of {', '.join(FLOATS)}",
            received=f"{list(info.shape)} of {info.dtype}",
            remedy="use the original precision, or --exclude it",
        )
    if info.dtype not in FLOATS:
        return TensorRole.IGNORED
    return _role_by_shape(info, in_layer=in_layer)


def _role_by_shape(info: TensorInfo, *, in_layer: bool) -> TensorRole:
    if len(info.shape) == 1 or holds_positions(info.name):
        return TensorRole.DENSE
    # DBRX stores the matrices of all experts as rows of one, whose name does not end as a weight's
    experts = ".experts." in info.name and not info.name.endswith(("bias", ".weight"))
    if in_layer and (is_stacked(info) or (len(info.shape) == 2 and experts)):
        return TensorRole.LINEAR
    if len(info.shape) != 2 or not info.name.endswith(".weight"):
        return TensorRole.DENSE if in_layer else TensorRole.UNSUPPORTED
    module = _module(info.name)
    if in_layer or module in EMBEDDINGS or "embed" not in module:
        return TensorRole.LINEAR if in_layer else EMBEDDINGS.get(module, TensorRole.LINEAR)
    return TensorRole.UNSUPPORTED


def is_ignored_by_name(name: str) -> bool:
    """Whether a tensor belongs to a tower of another modality, or to a head for several tokens."""
    return OTHER_TOWER.search(name) is not None


def is_stacked(info: TensorInfo) -> bool:
    """Whether a tensor stacks matrices; a depthwise convolution has one input channel."""
    return len(info.shape) > 2 and info.shape[1] > 1 and not _is_vector(info)


def _is_vector(info: TensorInfo) -> bool:
    """Whether a tensor has one dimension longer than 1 at most, as Kimi Linear's A_log [1, 1, heads, 1]."""
    return info.numel == max(info.shape, default=1)


def layer_of(name: str) -> int | None:
    """Number of the layer that a tensor or module belongs to; None outside the layers."""
    match = LAYER.search(name)
    return int(match[1]) if match else None


def without_wrappers(name: str) -> str:
    """A name without the components that wrappers of training add."""
    first, *rest = name.split(".")
    kept = [component for component in (first, *rest) if component not in WRAPPERS]
    return ".".join(kept)


def comparable(name: str) -> str:
    """What a tensor's name has in common in a checkpoint, in its class and in its text tower alone.

    `model.language_model.layers.0.mlp.up_proj.weight`, `language_model.model.layers.0.mlp.up_proj.weight` and
    `model.layers.0.mlp.up_proj.weight` are `layers.0.mlp.up_proj.weight`; other towers keep their names.
    """
    components = [component for component in name.split(".") if component not in WRAPPERS]
    front = next((n for n, component in enumerate(components) if component not in NEUTRAL), len(components))
    if _module(name) in OUTPUTS and layer_of(name) is None:
        return f"{OUTPUTS[0]}.{components[-1]}"
    return ".".join(RENAMED.get(component, component) for component in components[front:])


def holds_positions(name: str) -> bool:
    """Whether a tensor is a table of learned positions, whose length bounds the context."""
    return _module(name) in POSITIONS and not OTHER_TOWER.search(name)


def stored_transposed(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a model stores a layer's weight as [in, out]."""
    return name.endswith(".weight") and _module(name) in TRANSPOSED.get(str(config.get("model_type")), ())


def is_buffer(info: TensorInfo) -> bool:
    """Whether a tensor is computed from the config, and some checkpoints store it nevertheless.

    GPT-2's and GPT-NeoX's `attn.bias` [1, 1, positions, positions] is a causal mask.
    """
    return info.name.endswith(BUFFERS) or (info.name.endswith(".bias") and len(info.shape) == 4)


def rows_are_tokens(name: str) -> bool:
    """Whether each row of a tensor belongs to a token: embeddings and lm_head, their biases too."""
    return _module(name) in EMBEDDINGS and layer_of(name) is None and not OTHER_TOWER.search(name)


def is_embedding(name: str) -> bool:
    """Whether a tensor is the weight of the input or output embeddings."""
    return name.endswith(".weight") and rows_are_tokens(name)


def input_embedding(names: Iterable[str]) -> str | None:
    """The name of the input embeddings' weight among `names`."""
    return next((name for name in names if is_embedding(name) and _module(name) in INPUTS), None)


def output_embedding(names: Iterable[str]) -> str | None:
    """The name of the output layer's weight among `names`; None where it is tied to the input embeddings."""
    return next((name for name in names if is_embedding(name) and _module(name) in OUTPUTS), None)


def module_kind(name: str) -> str:
    """`model.layers.3.self_attn.q_proj.weight` is a q_proj; all norms are one kind; a bias is its own."""
    *_, module, leaf = ["", *name.split(".")]
    kind = "norms" if "norm" in module else module
    return kind if leaf == "weight" else f"{kind} {leaf}"


def short_kind(module: str) -> str:
    """The kind of a module as charts and tables name it: `model.layers.3.self_attn.q_proj` is a `q`."""
    kind = module.rpartition(".")[2]
    return SHORT_KINDS.get(kind, kind.removesuffix("_proj"))


def kind_order(short: str) -> tuple[int, str]:
    """Sort key of short kinds: in the order of a layer, others after them by name."""
    order = list(SHORT_KINDS.values())
    return (order.index(short) if short in order else len(order)), short


def parameter_group(name: str, dimensions: int) -> str:
    """The training recipe's group of a parameter: embeddings, linear (matrices) or norms (the rest)."""
    if is_embedding(name):
        return "embeddings"
    return "linear" if dimensions == 2 else "norms"


def rotary_heads(name: str, config: Mapping[str, Any]) -> int | None:
    """Number of heads of a query or key projection; None for tensors that RoPE does not rotate."""
    key = ROTARY_HEADS.get(_module(name))
    return None if key is None else int(config[key])


def _module(name: str) -> str:
    """The last component of a tensor's name before `weight` or `bias`."""
    return name.rpartition(".")[0].rpartition(".")[2]
