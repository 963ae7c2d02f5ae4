"""Whether transformers may load a folder: it would load what the folder holds, and build nothing absurd."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.model_folder import MODEL_CONFIG, ModelFolder
from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.errors import CheckpointError
from contextgraft.formats.model.limited_process import ProcessBudget, run_limited
from contextgraft.formats.model.pretrained import check_no_adapter

MOST_LAYERS = 1000  # of models whose config counts layers that it does not store
MOST_COUNTED = 100_000  # experts, heads, labels: transformers builds a list of so many in milliseconds
LARGEST = 2**31 - 1  # torch's sizes of matrices
MOST_VALUES = 300_000  # in a config
USUAL = 10_000_000  # a class may count to it, whatever the key is, in a second
READING = ProcessBudget(cpu_seconds=20, memory=2 << 30)
LENGTH = "length of "
LAYERS = ("layer", "layers", "depth", "depths", "blocks", "types", "pattern", "block_type")  # ends of keys


def check_loadable(folder: ModelFolder) -> None:
    """Raise CheckpointError for a folder that transformers must not load.

    An adapter's config next to the weights makes transformers load the base that it names instead. A config
    whose numbers do not fit the stored tensors makes it build layers for hours, or fill the memory.
    """
    check_no_adapter(folder.path)
    check_config(folder.config, folder.path / MODEL_CONFIG, folder.tensors)


def check_config(
    config: Mapping[str, Any], path: Path, tensors: Mapping[str, TensorInfo] | None = None
) -> None:
    """Raise CheckpointError for a config of which transformers must not make a configuration or a model.

    Its numbers, and the lengths of its lists and texts, are compared with the number and sizes of `tensors`.
    """
    layers = max(len(tensors or ()), MOST_LAYERS)
    counted = max(layers, MOST_COUNTED, *(max(info.shape, default=0) for info in (tensors or {}).values()), 0)
    largest = values = 0.0
    for key, value in _sizes(config):
        limit = _limit(key, layers, counted)
        if abs(value) > limit:
            have = f", as the folder has {len(tensors)} tensors" if tensors is not None else ""
            raise CheckpointError(
                f"has no usable {key}",
                path=path,
                expected=f"at most {limit:.12g}{have}",
                received=f"{value:.6g}",
            )
        largest, values = max(largest, abs(value)), values + 1
    if values > MOST_VALUES:
        raise CheckpointError(
            "has too many values", path=path, expected=f"at most {MOST_VALUES:,}", received=f"{values:,.0f}"
        )
    if largest > USUAL:
        run_limited(lambda: _problem(config), "its config", path, READING)


def _problem(config: Mapping[str, Any]) -> str:
    """Reads a config as transformers does; what it raises is reported where it is read again."""
    from transformers import AutoConfig  # noqa: PLC0415 - an extra

    try:
        AutoConfig.for_model(**config)
    except MemoryError:
        raise
    except Exception as error:
        return type(error).__name__
    return ""


def _limit(key: str, layers: int, counted: int) -> float:
    """The largest number for which transformers builds something within seconds."""
    if key.endswith(LAYERS):
        return layers
    if key.startswith(("num_", LENGTH)) or key.endswith(("experts", "heads", "labels", "groups")):
        return counted
    if key.endswith(("size", "dim", "rank")):
        return LARGEST
    return float("inf")


def _sizes(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a config, and every length of a list or a text, with its key.

    The numbers of a list have the list's key.
    """
    if isinstance(value, dict):
        for inner_key, inner in value.items():
            yield from _sizes(inner, inner_key)
    elif isinstance(value, list):
        yield LENGTH + key, len(value)
        for inner in value:
            yield from _sizes(inner, key)
    elif isinstance(value, str):
        yield LENGTH + key, len(value)
    elif isinstance(value, int | float):
        yield key, value
