"""Copy the files of a model or adapter folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.model_folder import (
    MODEL_CONFIG,
    MODEL_INDEX,
    PICKLES,
    ModelFolder,
    open_model,
    read_json,
)
from contextgraft.checkpoint.safetensors_header import CONVERT, open_tensors
from contextgraft.config.text_file import list_below
from contextgraft.errors import CheckpointError, PickleRefused
from contextgraft.formats.model.own_files import check_own_files, copy_own_file
from contextgraft.formats.model_card.licence import CARD
from contextgraft.formats.peft import (
    ADAPTER_CONFIG,
    ADAPTER_PICKLE,
    ADAPTER_WEIGHTS,
    DENSE_DELTAS,
    TRAINED_PICKLE,
)
from contextgraft.formats.sidecar import SIDECAR
from contextgraft.sources.conversion import Conversion, conversion_facts
from contextgraft.sources.hub.files import is_small_file
from contextgraft.sources.pickles.names import PICKLE_INDEX, holds_adapter


def is_adapter(folder: Path) -> bool:
    """Whether a folder is an adapter, and not a model."""
    return holds_adapter({path.name for path in folder.iterdir()})


def copy_folder(source: Path, folder: Path, conversion: Conversion) -> dict[str, Any]:
    """Copy a model or an adapter, its weights in the form that `conversion` wants.

    Returns what the record says of that. Raises the errors of `open_model` and, for an adapter, of
    `open_tensors`. The caller compares the files of `source` afterwards with what they were.
    """
    check_own_files(source)
    converted = conversion.pickles(source, folder)
    if is_adapter(source):
        _copy_adapter(source, folder, converted)
    elif converted:
        _copy_files(source, folder, [MODEL_CONFIG, *_other_files(source)])
    else:
        copy_model(source, folder)
    return conversion_facts(converted, dequantised=conversion.fp8(folder, source))


def copy_model(source: Path, folder: Path) -> None:
    """Copy config, index, shards and the other files (tokenizer, licence) of a checked model folder.

    Not copied: pickles, and the source's contextgraft.json, because the copy gets its own. Missing and
    malformed files raise the errors of `checkpoint.model_folder.open_model`.
    """
    _copy_files(source, folder, model_files(open_model(source)))


def model_files(model: ModelFolder) -> tuple[str, ...]:
    """Names of the files that a copy of a model has."""
    index = (MODEL_INDEX,) if (model.path / MODEL_INDEX).exists() else ()
    others = (name for name in model.others if name != SIDECAR and not name.endswith(PICKLES))
    return tuple(dict.fromkeys((MODEL_CONFIG, *index, *model.shards, *others)))


def _copy_adapter(source: Path, folder: Path, converted: tuple[str, ...]) -> None:
    """The files of an adapter that `convert_weights` did not write."""
    pickle = next((name for name in (TRAINED_PICKLE, ADAPTER_PICKLE) if (source / name).exists()), None)
    if not converted:
        if pickle and (pickle == TRAINED_PICKLE or not (source / ADAPTER_WEIGHTS).exists()):
            raise PickleRefused("is a pickle, which is never loaded", path=source / pickle, remedy=CONVERT)
        read_json(source / ADAPTER_CONFIG)
        open_tensors(source / ADAPTER_WEIGHTS)
        _copy_files(source, folder, (ADAPTER_CONFIG, ADAPTER_WEIGHTS))
    own = [name for name in (SIDECAR, DENSE_DELTAS, CARD) if (source / name).exists()]
    small = [path.name for path in source.iterdir() if path.is_file() and is_small_file(path.name)]
    _copy_files(source, folder, [*own, *small])


def _other_files(source: Path) -> list[str]:
    """Visible files of a pickled model that are not weights."""
    visible = (path.relative_to(source) for path in list_below(source) if path.is_file())
    weights = (*PICKLES, ".safetensors", ".gguf", ".h5", ".msgpack", ".onnx")
    own = (MODEL_CONFIG, SIDECAR, PICKLE_INDEX)
    return sorted(
        file.as_posix() for file in visible if not file.name.endswith(weights) and file.name not in own
    )


def _copy_files(source: Path, folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if not name.isprintable():
            raise CheckpointError("has a file whose name is not text", path=source, received=repr(name)[:80])
        copy_own_file(source, name, folder / name)
