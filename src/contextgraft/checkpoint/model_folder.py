"""A model's folder: config, position of each tensor, other files. No tensor is loaded."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from contextgraft.checkpoint.input_files import InputFiles, files_of
from contextgraft.checkpoint.safetensors_header import (
    CONVERT,
    MAX_HEADER,
    TensorFile,
    TensorInfo,
    open_tensors,
)
from contextgraft.checkpoint.strict_json import NotJson, parse_json
from contextgraft.config.text_file import list_below, open_regular
from contextgraft.errors import (
    CheckpointError,
    InputError,
    NotFullPrecision,
    PickleRefused,
    Refused,
    first_names,
    raise_read_error,
)

__all__ = ["ModelFolder", "TensorFile", "TensorInfo", "open_model", "open_tensors", "read_json"]

MODEL_CONFIG = "config.json"
SIDECAR = "contextgraft.json"
REFUSED = "refused"  # kind of a sidecar that records why a model was refused
MODEL_WEIGHTS = "model.safetensors"
MODEL_INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_ONLY = "holds an adapter, not a complete model"
MERGE_FIRST = "merge it into its base first: `contextgraft merge --adapter DIR --target BASE --keep-rope`"
OTHER_WEIGHTS = (".safetensors", ".gguf")  # under names that transformers does not load by itself
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
QUANTISATION = ("quantization_config", "compression_config")  # sections of a config
SOURCE = re.compile(r"(hf|demo|package):.")
UNNAMED = "of a kind it does not name"


@dataclass(frozen=True)
class ModelFolder:
    """A checked model folder; `others` are the files that are neither shards nor config nor index.

    `inputs` are its files as they were before the first of them was read.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    shards: tuple[str, ...]
    weight_map: dict[str, str]
    others: tuple[str, ...]
    inputs: InputFiles = field(default_factory=InputFiles, compare=False, repr=False)

    def __getitem__(self, name: str) -> TensorInfo:
        """Shard, offsets, dtype and shape of a tensor; an unknown name raises CheckpointError."""
        if name not in self.tensors:
            raise CheckpointError(f"has no tensor {name!r}", path=self.path)
        return self.tensors[name]


def open_model(path: Path) -> ModelFolder:
    """Open `config.json` with `model.safetensors`, or without it the shards of the index.

    Missing files raise InputError, pickles PickleRefused, everything malformed CheckpointError; a folder
    that only records a refusal, Refused.
    """
    check_model_folder(path)
    inputs = files_of(path)
    _raise_refusal(path)
    if (path / ADAPTER_CONFIG).exists() and not (path / MODEL_CONFIG).exists():
        raise CheckpointError(ADAPTER_ONLY, path=path, remedy=MERGE_FIRST)
    config = read_json(path / MODEL_CONFIG)
    shards = _shards(path, config)
    weight_map = {info.name: shard for shard in shards for info in shards[shard].tensors.values()}
    tensors = {name: shards[weight_map[name]].tensors[name] for name in sorted(weight_map)}
    own = {MODEL_CONFIG, *shards} | ({MODEL_INDEX} if MODEL_WEIGHTS not in shards else set())
    return ModelFolder(path, config, tensors, tuple(sorted(shards)), weight_map, _others(path, own), inputs)


def _raise_refusal(path: Path) -> None:
    if (path / MODEL_CONFIG).exists() or not (path / SIDECAR).exists():
        return
    record = read_json(path / SIDECAR)
    if record.get("kind") == REFUSED:
        raise Refused(path, str(record.get("verb")), str(record.get("reason")))


def read_json(path: Path, *, unique: bool = False) -> dict[str, Any]:
    """One JSON object from a file; unreadable or malformed files raise CheckpointError."""
    try:
        with open_regular(path) as file:
            raw = file.read(MAX_HEADER + 1)
        if len(raw) > MAX_HEADER:
            raise NotJson(f"more than {MAX_HEADER} bytes")
        data = parse_json(raw, unique=unique)
    except FileNotFoundError:
        inside = folders_with(path.parent, MODEL_CONFIG, ADAPTER_CONFIG)
        raise CheckpointError(
            "no such file", path=path,
            remedy=f"choose one of its folders: {first_names(inside, 10)}" if inside else
            "pass the folder of a complete model or adapter",
        ) from None  # fmt: skip
    except OSError as error:
        raise_read_error(error, path)
        raise CheckpointError("cannot be read", path=path, received=error.strerror) from None
    except NotJson as error:
        raise CheckpointError("cannot be read as JSON", path=path, received=error) from None
    if not isinstance(data, dict):
        raise CheckpointError("is not a JSON object", path=path, received=type(data).__name__)
    return data


def check_model_folder(path: Path) -> None:
    """Raise InputError if there is no folder at the path of a model."""
    check_is_folder(path, "no such model folder", "a folder with config.json and safetensors files")


def check_is_folder(path: Path, message: str, expected: str) -> None:
    """Raise InputError if there is no folder at a path; for a source of `fetch` it names that command."""
    if not path.is_dir():
        received = "a file" if path.exists() else "nothing at this path"
        fetch = f"fetch it first: `contextgraft fetch {path} --out FOLDER`"
        remedy = fetch if SOURCE.match(str(path)) else None
        raise InputError(message, path=path, expected=expected, received=received, remedy=remedy)


def folders_with(folder: Path, *files: str) -> list[str]:
    """The names of the folders directly in a folder that hold one of these files; none that is hidden."""
    found = (file.parent.name for name in files for file in folder.glob(f"*/{name}"))
    return sorted({name for name in found if not name.startswith(".")})


def _shards(path: Path, config: dict[str, Any]) -> dict[str, TensorFile]:
    """The files that transformers would load: the single file, else what the index names."""
    named = config.get("transformers_weights")
    if named not in (None, MODEL_WEIGHTS):
        raise CheckpointError(
            "names its weights by transformers_weights", path=path / MODEL_CONFIG, expected=MODEL_WEIGHTS,
            received=f"{named!r}"[:80], remedy="save it again with transformers' save_pretrained",
        )  # fmt: skip
    if (path / MODEL_WEIGHTS).exists():
        return {MODEL_WEIGHTS: open_tensors(path / MODEL_WEIGHTS)}
    if (path / MODEL_INDEX).exists():
        return _indexed(path, read_json(path / MODEL_INDEX, unique=True))
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
    if pickles and (method := declared_method(config)) is not None:
        raise NotFullPrecision(
            f"is quantised ({method}), and its weights are pickles", path=path,
            remedy="use the model in its original precision",
        )  # fmt: skip
    if pickles:
        raise PickleRefused(
            "has weights only as pickles, which are never loaded", path=path / pickles[0], remedy=CONVERT
        )
    if (path / ADAPTER_CONFIG).exists():
        raise CheckpointError(ADAPTER_ONLY, path=path, remedy=MERGE_FIRST)
    others = sorted(file.name for file in path.iterdir() if file.suffix in OTHER_WEIGHTS)
    remedy = "save it again with transformers' save_pretrained"
    if any(name.endswith(".gguf") for name in others):
        remedy = "convert a GGUF file in it with `contextgraft fetch FILE.gguf --out DIR`"
    raise CheckpointError(
        "has no weights that transformers loads", path=path, expected=f"{MODEL_WEIGHTS} or {MODEL_INDEX}",
        received=first_names(others, 3) if others else "neither", remedy=remedy if others else None,
    )  # fmt: skip


def _indexed(path: Path, index: dict[str, Any]) -> dict[str, TensorFile]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("has no weight_map", path=path / MODEL_INDEX)
    for shard in weight_map.values():
        _check_shard_name(path, shard)
    missing = sorted({shard for shard in weight_map.values() if not (path / shard).exists()})
    if missing:
        raise CheckpointError(
            f"names {len(missing)} file(s) that are missing", path=path / MODEL_INDEX,
            expected=", ".join(missing[:3]), received="no such file",
            remedy="fetch the folder again; if the index is of an older save, delete it",
        )  # fmt: skip
    shards = {shard: open_tensors(path / shard) for shard in sorted(set(weight_map.values()))}
    held: dict[str, str] = {}
    for shard, file in shards.items():
        for name in file.tensors:
            if name in held:
                raise CheckpointError(
                    f"tensor {name!r} is in two shards", path=path / shard, received=held[name]
                )
            held[name] = shard
    for name in sorted({*weight_map, *held}):
        if weight_map.get(name) != held.get(name):
            raise CheckpointError(
                f"does not fit its shards at {name[:80]!r}",
                path=path / MODEL_INDEX,
                expected=held.get(name, "no such tensor"),
                received=weight_map.get(name, "no entry"),
                remedy="fetch the folder again, or load it with transformers and write it by save_pretrained",
            )
    return shards


def _check_shard_name(path: Path, shard: Any) -> None:
    if not isinstance(shard, str) or not shard.endswith(".safetensors") or PurePosixPath(shard).name != shard:
        if isinstance(shard, str) and shard.endswith(PICKLES):
            raise PickleRefused(
                "names pickles, which are never loaded", path=path / MODEL_INDEX, remedy=CONVERT
            )
        raise CheckpointError(
            "names a shard outside its folder or of another kind",
            path=path / MODEL_INDEX,
            expected="a plain name ending in .safetensors",
            received=repr(shard)[:80],
        )
    if "\\" in shard or not shard.isprintable() or shard.startswith(".") or len(os.fsencode(shard)) > 255:
        raise CheckpointError(
            "names a shard that is not a plain file name", path=path / MODEL_INDEX, received=repr(shard)[:80]
        )


def _others(path: Path, own: set[str]) -> tuple[str, ...]:
    files = (file.relative_to(path).as_posix() for file in list_below(path) if file.is_file())
    others = sorted(name for name in files if name not in own)
    for name in others:
        if not name.isprintable():
            raise CheckpointError("has a file whose name is not text", path=path, received=repr(name)[:80])
    return tuple(others)


def declared_method(config: Mapping[str, Any]) -> str | None:
    """The quantisation method that a config.json names, also for its text model; None if there is none."""
    section = next(quantisation_sections(config), None)
    if section is None:
        return None
    method = section.get("quant_method")
    if method is None and {"load_in_4bit", "load_in_8bit"} & set(section):
        return "bitsandbytes"
    return str(method or UNNAMED)


def quantisation_sections(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The sections of a config.json that describe a quantisation, of the whole model first."""
    for part in (config, *(config.get(key) for key in ("text_config", "llm_config", "language_config"))):
        if isinstance(part, Mapping):
            values = (part.get(key) for key in QUANTISATION)
            yield from (value for value in values if isinstance(value, Mapping) and value)
