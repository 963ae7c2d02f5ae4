"""Whether transformers may load a folder: it would load what the folder holds, and build nothing absurd."""

from collections.abc import Iterator
from typing import Any

from contextgraft.checkpoint.model_folder import MODEL_CONFIG, ModelFolder
from contextgraft.errors import CheckpointError
from contextgraft.formats.model.pretrained import check_no_adapter

MOST_LAYERS = 1000  # of models whose config counts layers that it does not store
MOST_COUNTED = 100_000  # experts, heads, labels: transformers builds a list of so many in milliseconds
LARGEST = 2**31 - 1  # torch's sizes of matrices


def check_loadable(folder: ModelFolder) -> None:
    """Raise CheckpointError for a folder that transformers must not load.

    An adapter's config next to the weights makes transformers load the base that it names instead. A config
    whose numbers do not fit the stored tensors makes it build layers for hours, or fill the memory.
    """
    check_no_adapter(folder.path)
    layers = max(len(folder.tensors), MOST_LAYERS)
    counted = max(
        len(folder.tensors),
        MOST_COUNTED,
        *(max(info.shape, default=0) for info in folder.tensors.values()),
        0,
    )
    for key, value in _numbers(folder.config):
        limit = _limit(key, layers, counted)
        if abs(value) > limit:
            raise CheckpointError(
                f"has no usable {key}",
                path=folder.path / MODEL_CONFIG,
                expected=f"at most {limit}, as the folder has {len(folder.tensors)} tensors",
                received=f"{value:.6g}",
            )


def _limit(key: str, layers: int, counted: int) -> float:
    """The largest number for which transformers builds something within seconds."""
    if key.endswith(("layer", "layers", "depth", "depths", "blocks")):
        return layers
    if key.startswith("num_") or key.endswith(("experts", "heads", "labels", "groups")):
        return counted
    if key.endswith(("size", "dim", "rank")):
        return LARGEST
    return float("inf")


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a config with its key; those of a list have the list's key."""
    if isinstance(value, dict):
        for inner_key, inner in value.items():
            yield from _numbers(inner, inner_key)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, key)
    elif isinstance(value, int | float):
        yield key, value
