"""The sizes of a model, read from its config.json alone: no weights are loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path

from contextgraft.checkpoint.model_folder import MODEL_CONFIG, read_json
from contextgraft.config.text_file import path_exists
from contextgraft.errors import InputError, did_you_mean
from contextgraft.formats.tensor_names import rows_are_tokens
from contextgraft.planning.shapes.config_values import BYTES, check_layer_counts, weight_dtype
from contextgraft.planning.shapes.parameter_formulas import evaluate_formula

SHIPPED = Path(__file__).parent


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder with grouped-query attention.

    `windows` has an entry for each layer: the attention window in tokens, None for full attention. `tensors`
    are the shapes of the checkpoint's tensors by name; tied embeddings are there once. `idle` counts the
    parameters of experts that a token does not pass through. `dtype` is the one of the weights. `capped`:
    attention scores have a soft cap, which PyTorch's fused kernels do not take. `eager`: the class has no
    other attention in transformers than matrix products, because of a soft cap, attention sinks or the like.
    """

    name: str
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    windows: tuple[int | None, ...]
    tensors: Mapping[str, tuple[int, ...]]
    idle: int = 0
    dtype: str = "bfloat16"
    capped: bool = False
    eager: bool = False

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.windows)

    @property
    def width(self) -> int:
        """Heads x head size, which differs from the hidden size in some models (Qwen3, Gemma)."""
        return self.heads * self.head_dim

    @cached_property
    def parameters(self) -> int:
        """Number of weights of the whole model."""
        return sum(map(prod, self.tensors.values()))

    @property
    def active(self) -> int:
        """Weights that one token passes through."""
        return self.parameters - self.idle

    @cached_property
    def matrices(self) -> Mapping[str, tuple[int, ...]]:
        """The weights of linear layers, which are what an adapter changes; without embeddings."""
        return {
            name: shape
            for name, shape in self.tensors.items()
            if len(shape) > 1 and not rows_are_tokens(name)
        }

    @property
    def tied(self) -> bool:
        """Whether the output layer has no weights of its own."""
        return sum(map(rows_are_tokens, self.tensors)) < 2

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one weight."""
        return BYTES[self.dtype]

    @property
    def shares_prefixes(self) -> bool:
        """Whether prompts can share a prefix: the cache of a layer with a window cannot be cropped."""
        return all(window is None for window in self.windows)

    def in_dtype(self, dtype: str) -> "ModelShape":
        """The same model, computed in another dtype."""
        return replace(self, dtype=dtype)


def shipped_shapes() -> dict[str, Path]:
    """The config files that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.json"))}


def find_config(model: str) -> tuple[str, Path]:
    """Name and config file of a model folder, a config.json or a shipped shape; InputError if it is none."""
    path = Path(model)
    if path_exists(model) and path.is_dir():
        return path.absolute().name, path / MODEL_CONFIG
    if path_exists(model):
        return path.absolute().parent.name if path.name == MODEL_CONFIG else path.stem, path
    if model in shipped_shapes():
        return model, shipped_shapes()[model]
    raise InputError(
        "no such model",
        path=model,
        expected=f"a folder, a config.json, or {' or '.join(shipped_shapes())}",
        remedy=did_you_mean(model, shipped_shapes()),
    )


def read_model_shape(model: str | Path, dtype: str = "auto") -> ModelShape:
    """The shape of a model folder, a config.json or a shipped shape; dtype "auto" is the config's own.

    Llama-like models are computed by formula; others are built by transformers on the meta device, which
    imports torch. A config that neither can handle raises CheckpointError.
    """
    name, path = find_config(str(model))
    config = read_json(path)
    check_layer_counts(config, path)
    formula = evaluate_formula(config, path)
    if formula is None:
        from contextgraft.planning.shapes.meta_model import build_shape

        return build_shape(name, config, path, dtype)
    sizes = formula.sizes
    return ModelShape(
        name=name,
        hidden=sizes.hidden,
        intermediate=sizes.intermediate,
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        vocabulary=sizes.vocabulary,
        windows=formula.windows,
        tensors=formula.tensors,
        dtype=weight_dtype(config.get("dtype") or config.get("torch_dtype"), path)
        if dtype == "auto"
        else dtype,
        capped=formula.capped,
        eager=formula.eager,
    )
