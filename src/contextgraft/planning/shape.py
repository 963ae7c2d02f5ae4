"""A model's shape from its config.json alone: built without weights, counted, and let go."""

from pathlib import Path
from typing import Any

from contextgraft.checkpoint.model_folder import MODEL_CONFIG, read_json
from contextgraft.errors import CheckpointError, InputError
from contextgraft.planning.inference import BYTES, Shape

SHIPPED = Path(__file__).parent / "shapes"
MOST_LAYERS = 1000
ATTENTION = ("full_attention", "sliding_attention")


def shipped() -> dict[str, Path]:
    """Shapes that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.json"))}


def find_config(model: str) -> tuple[str, Path]:
    """Name and config file of a folder, a config.json or a shipped shape; InputError if it is none."""
    path = Path(model)
    if path.is_dir():
        return path.absolute().name, path / MODEL_CONFIG
    if path.exists():
        return path.absolute().parent.name if path.name == MODEL_CONFIG else path.stem, path
    if model in shipped():
        return model, shipped()[model]
    raise InputError(
        "no such model", path=model, expected=f"a folder, a config.json, or {' or '.join(shipped())}"
    )


def read_shape(model: str, dtype: str) -> Shape:
    """The shape of a model, computed in `dtype` ("auto": as the config says).

    Its parameters are those of the transformers class, made on the meta device, where nothing is allocated.
    What cannot be built, or keeps something else than keys and values of heads, raises CheckpointError.
    """
    name, path = find_config(model)
    config, parameters = build(path)
    layers = _whole(config, "num_hidden_layers", path)
    heads = _whole(config, "num_attention_heads", path)
    head_dim = getattr(config, "head_dim", None) or _whole(config, "hidden_size", path) // heads
    return Shape(
        name=name,
        parameters=sum(parameters.values()),
        active=sum(parameters.values()) - _idle(config, parameters),
        width=heads * head_dim,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=head_dim,
        windows=_windows(config, layers, path),
        dtype=_dtype(config, path) if dtype == "auto" else dtype,
    )


def build(path: Path) -> tuple[Any, dict[str, int]]:
    """The configuration of the text model, and the elements of each of its parameters by name."""
    data = read_json(path)
    _refuse_endless(data, path)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    kind = data.pop("model_type", None)
    kept = {key: value for key, value in data.items() if key not in {"quantization_config", "auto_map"}}
    try:
        config = AutoConfig.for_model(kind, **kept).get_text_config()
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # whatever a strange config makes of a class of transformers
        raise CheckpointError(
            "describes no causal language model that transformers knows", path=path, received=str(error)[:200]
        ) from None
    return config, {name: each.numel() for name, each in model.named_parameters()}


def _refuse_endless(section: Any, path: Path) -> None:
    """Raise CheckpointError where a number of layers, under any name, would take for ever to make."""
    items = section.items() if isinstance(section, dict) else ()
    for key, value in items:
        if key.endswith(("layer", "layers")) and isinstance(value, int | float) and value > MOST_LAYERS:
            raise CheckpointError(
                f"has no usable {key}", path=path, expected=f"at most {MOST_LAYERS}", received=value
            )
        _refuse_endless(value, path)


def _whole(config: Any, key: str, path: Path) -> int:
    value = getattr(config, key, None)
    if not isinstance(value, int) or value < 1:
        raise CheckpointError(f"has no usable {key}", path=path, expected="a positive number", received=value)
    return value


def _idle(config: Any, parameters: dict[str, int]) -> int:
    """Parameters of experts that a token does not pass through."""
    named = [getattr(config, key, None) for key in ("num_local_experts", "num_experts", "n_routed_experts")]
    experts = next((number for number in named if number), None)
    chosen = getattr(config, "num_experts_per_tok", None)
    if experts is None or chosen is None or not 0 < chosen <= experts:
        return 0
    held = sum(count for name, count in parameters.items() if ".experts." in name)
    return held - held * int(chosen) // int(experts)


def _windows(config: Any, layers: int, path: Path) -> tuple[int | None, ...]:
    """How far back each layer looks; layers that are no plain or sliding attention raise CheckpointError."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or [ATTENTION[window is not None]] * layers
    strange = sorted({kind for kind in kinds if kind not in ATTENTION})
    if getattr(config, "kv_lora_rank", None):
        strange.append("latent attention")
    if strange:
        raise CheckpointError(
            "has layers whose memory is not planned",
            path=path,
            expected=" or ".join(ATTENTION),
            received=strange[0],
        )
    if "sliding_attention" in kinds:
        window = _whole(config, "sliding_window", path)
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _dtype(config: Any, path: Path) -> str:
    """The config's own type, bfloat16 where it says none."""
    name = str(config.dtype or "bfloat16").removeprefix("torch.")
    if name not in BYTES:
        raise CheckpointError(
            "is stored in a type that is not planned", path=path, expected=", ".join(BYTES), received=name
        )
    return name
