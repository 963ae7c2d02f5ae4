"""Which files of a folder or repository are pickles that hold its weights."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.model_folder import MODEL_CONFIG, MODEL_INDEX, MODEL_WEIGHTS
from contextgraft.errors import CheckpointError
from contextgraft.formats.peft import ADAPTER_CONFIG, ADAPTER_PICKLE, ADAPTER_WEIGHTS, TRAINED_PICKLE

MODEL_PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
PICKLE_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,200}\.bin", re.ASCII)


def holds_adapter(names: Collection[str]) -> bool:
    """Whether a folder of these files is an adapter: without weights of a model, a config.json is a copy."""
    model = MODEL_CONFIG in names and {MODEL_INDEX, MODEL_WEIGHTS, PICKLE_INDEX, MODEL_PICKLE} & set(names)
    return ADAPTER_CONFIG in names and not model


def pickled_weights(names: Collection[str]) -> tuple[str, ...]:
    """Of the files of a folder, the pickles (or their index) that hold its weights; safetensors go first.

    LongLoRA's trainable_params.bin is needed next to an adapter of either form.
    """
    if MODEL_CONFIG in names and not holds_adapter(names):
        stored = {MODEL_INDEX, MODEL_WEIGHTS} & set(names)
        chosen = next((name for name in (PICKLE_INDEX, MODEL_PICKLE) if name in names), None)
        return () if stored or chosen is None else (chosen,)
    if ADAPTER_CONFIG not in names:
        return ()
    weights = () if ADAPTER_WEIGHTS in names or ADAPTER_PICKLE not in names else (ADAPTER_PICKLE,)
    return (*weights, *([TRAINED_PICKLE] if TRAINED_PICKLE in names else []))


def pickled_shards(index: Mapping[str, Any], path: Path | str) -> tuple[str, ...]:
    """Names of the files in the index of a pickled model, in order; other names raise CheckpointError."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("has no weight_map", path=path)
    for name in weight_map.values():
        if not isinstance(name, str) or not PICKLE_NAME.fullmatch(name):
            raise CheckpointError(
                "names a file outside its folder or of another kind", path=path,
                expected="plain names ending in .bin", received=repr(name)[:80],
            )  # fmt: skip
    return tuple(sorted(set(weight_map.values())))
