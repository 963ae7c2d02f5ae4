"""Which pickles hold the weights of a folder, and the safetensors files that they become."""

from collections.abc import Sequence
from pathlib import Path

from contextgraft.checkpoint.atomic import write_json
from contextgraft.checkpoint.model_folder import (
    MODEL_CONFIG,
    MODEL_INDEX,
    MODEL_WEIGHTS,
    PICKLES,
    read_json,
)
from contextgraft.checkpoint.reader import DTYPES, read_tensor
from contextgraft.checkpoint.safetensors_header import open_tensors
from contextgraft.checkpoint.writer import Spec, order, write_tensors
from contextgraft.errors import CheckpointError, first_names
from contextgraft.formats.model.own_files import copy_own_file
from contextgraft.formats.model.sharded_weights import shard_names, write_index
from contextgraft.formats.peft import (
    ADAPTER_CONFIG,
    ADAPTER_PICKLE,
    ADAPTER_WEIGHTS,
    PREFIX,
    TRAINED_PICKLE,
    module_of,
)
from contextgraft.sources.pickles.names import (
    MODEL_PICKLE,
    PICKLE_INDEX,
    holds_adapter,
    pickled_shards,
    pickled_weights,
)
from contextgraft.sources.pickles.process import PickleFile, convert_files


def convert_weights(folder: Path, out: Path) -> tuple[str, ...]:
    """Write the pickled weights of `folder` as safetensors to `out`; returns the names of the pickles.

    `out` may be `folder`. Without pickles nothing is written. Pickles of a model alone, under names that
    transformers does not load, raise CheckpointError.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    chosen = pickled_weights(names)
    if not chosen:
        if not holds_adapter(names):
            _check_named(folder, names)
        return ()
    if holds_adapter(names):
        return _convert_adapter(folder, out, chosen)
    config = read_json(folder / MODEL_CONFIG)
    tied = config.get("tie_word_embeddings") is True
    if chosen == (MODEL_PICKLE,):
        convert_files([PickleFile(folder / MODEL_PICKLE, out / MODEL_WEIGHTS)], drop_tied_head=tied)
        return chosen
    return _convert_shards(folder, out, tied)


def _check_named(folder: Path, names: Sequence[str]) -> None:
    pickles = [name for name in names if name.endswith(PICKLES)]
    if MODEL_CONFIG in names and pickles and not {MODEL_WEIGHTS, MODEL_INDEX} & set(names):
        raise CheckpointError(
            "has pickles under names that transformers does not load", path=folder,
            expected=f"{MODEL_PICKLE} or {PICKLE_INDEX}", received=first_names(pickles, 3),
            remedy="save it again with transformers' save_pretrained, or add the index of its shards",
        )  # fmt: skip


def _convert_shards(folder: Path, out: Path, tied: bool) -> tuple[str, ...]:
    """Convert each shard, and write an index of what they really hold."""
    index = read_json(folder / PICKLE_INDEX, unique=True)
    shards = pickled_shards(index, folder / PICKLE_INDEX)
    weight_map: dict[str, str] = {}
    total = 0
    names = shard_names(len(shards))
    files = [PickleFile(folder / shard, out / name) for shard, name in zip(shards, names, strict=True)]
    convert_files(files, drop_tied_head=tied)
    for shard, name in zip(shards, names, strict=True):
        for tensor in open_tensors(out / name).tensors.values():
            if weight_map.setdefault(tensor.name, name) != name:
                raise CheckpointError(f"tensor {tensor.name!r} is in two shards", path=folder / shard)
            total += tensor.bytes
    missing = sorted(set(index["weight_map"]) - set(weight_map))
    if missing and not tied:
        raise CheckpointError(
            "names tensors that its shards do not hold", path=folder / PICKLE_INDEX,
            received=", ".join(missing)[:200], remedy="fetch the model again",
        )  # fmt: skip
    write_index(out, weight_map, total)
    return (PICKLE_INDEX, *shards)


def _convert_adapter(folder: Path, out: Path, chosen: tuple[str, ...]) -> tuple[str, ...]:
    """Convert an adapter; the tensors of trainable_params.bin become modules that PEFT saves in full.

    Keys of the adapter's own weights stay as they are, also where PEFT ignores them: a merge warns.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    full = out / "trainable_params.safetensors"
    outputs = {ADAPTER_PICKLE: out / ADAPTER_WEIGHTS, TRAINED_PICKLE: full}
    prefixes = {ADAPTER_PICKLE: "", TRAINED_PICKLE: PREFIX}
    convert_files([PickleFile(folder / name, outputs[name], prefixes[name]) for name in chosen])
    if ADAPTER_PICKLE not in chosen and out != folder:
        copy_own_file(folder, ADAPTER_WEIGHTS, out / ADAPTER_WEIGHTS)
    if TRAINED_PICKLE in chosen:
        modules = {module_of(name).rpartition(".")[2] for name in open_tensors(full).tensors}
        _combine(out / ADAPTER_WEIGHTS, full)
        full.unlink()
        config["modules_to_save"] = sorted({*(config.get("modules_to_save") or ()), *modules})
    write_json(out / ADAPTER_CONFIG, config)
    return chosen


def _combine(first: Path, second: Path) -> None:
    """Add the tensors of the second file to the first; of those in both, the second's are kept."""
    origin = {name: file for file in (open_tensors(first), open_tensors(second)) for name in file.tensors}
    specs: dict[str, Spec] = {
        name: (DTYPES[file[name].dtype], file[name].shape) for name, file in origin.items()
    }
    write_tensors(first, specs, (read_tensor(origin[name], name) for name in order(specs)))
