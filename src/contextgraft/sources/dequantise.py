"""FP8 weights with scales by block, as DeepSeek publishes them, to bfloat16: a block of rows at a time.

Legend of shape suffixes: E experts, M rows, N columns, T rows of a tile.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from contextgraft.checkpoint.atomic import write_json
from contextgraft.checkpoint.full_precision import is_packed, quantisation
from contextgraft.checkpoint.model_folder import (
    MODEL_CONFIG,
    MODEL_INDEX,
    QUANTISATION,
    ModelFolder,
    TensorInfo,
    declared_method,
    open_model,
    quantisation_sections,
    read_json,
)
from contextgraft.checkpoint.reader import DTYPES, read_bytes, read_tensor
from contextgraft.checkpoint.safetensors_header import open_tensors
from contextgraft.checkpoint.writer import Spec, order, write_blocks
from contextgraft.errors import CheckpointError, NotFullPrecision

METHOD = "fp8"
FP8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
SCALE = "_scale_inv"  # what the name of a weight's scales ends with; the weight is stored value * scale
OF_ACTIVATIONS = (".activation_scale", ".input_scale")  # needed to compute in FP8 only
DEFAULT_BLOCK = [128, 128]  # of transformers' FineGrainedFP8Config
TILE_BYTES = 1 << 25


@dataclass(eq=False)  # not frozen: Python sets the traceback of an exception
class UnusableTensorError(Exception):
    """A tensor that cannot be dequantised."""

    name: str
    expected: str
    received: str


def dequantise(folder: Path, source: Path | str) -> bool:
    """Rewrite the FP8 weights of a model folder in bfloat16, and remove quantization_config.

    `source` is where the folder was copied from, for messages.

    False, and nothing changes, for a model that is not quantised; another method, or tensors that are not
    FP8 values with their scales, raise CheckpointError. Memory holds one tile of rows.
    """
    model = open_model(folder) if (folder / MODEL_CONFIG).exists() else None
    method = quantisation(model) if model else None
    if model is None or method is None:
        return False
    declared = declared_method(model.config)
    if declared != METHOD:
        raise NotFullPrecision(
            f"is quantised ({method})", path=source,
            expected=f"quant_method {METHOD} in quantization_config of config.json",
            received=declared or "no quantization_config",
            remedy="use the model in its original precision",
        )  # fmt: skip
    try:
        _rewrite(model, _block_size(model.config))
    except UnusableTensorError as error:
        raise CheckpointError(
            f"tensor {error.name!r} cannot be dequantised", path=source, expected=error.expected,
            received=error.received, remedy="use the model in its original precision",
        ) from None  # fmt: skip
    return True


def _rewrite(model: ModelFolder, block: tuple[int, int] | None) -> None:
    folder = model.path
    grids = {info.name: _grid(model, info, block) for info in model.tensors.values() if info.dtype in FP8}
    dropped = {name for name in model.tensors if name.endswith((SCALE, *OF_ACTIVATIONS))}
    for name in sorted(model.tensors):
        _check_is_dequantised(model, name, grids)
    contents: dict[str, dict[str, TensorInfo]] = {shard: {} for shard in model.shards}
    for name, shard in model.weight_map.items():
        contents[shard][name] = model[name]
    # scales may be in another shard: no shard is replaced before all are written
    for shard, infos in contents.items():
        kept = {name: info for name, info in infos.items() if name not in dropped}
        _write_shard(model, folder / f".{shard}", kept, grids)
    for shard, infos in contents.items():
        (folder / f".{shard}").replace(folder / shard)
        if set(infos) <= dropped:
            (folder / shard).unlink()
    write_json(folder / MODEL_CONFIG, _unquantised(model.config))
    _rewrite_index(folder, dropped)


def _check_is_dequantised(model: ModelFolder, name: str, grids: Mapping[str, tuple[int, int]]) -> None:
    """Raise UnusableTensorError for values that are packed (FP4 in int8) and for scales of other values."""
    weight = name.removesuffix(SCALE)
    if weight != name and weight not in grids:
        stored = model[weight].dtype if weight in model.tensors else "no such tensor"
        raise UnusableTensorError(weight, f"FP8 ({' or '.join(FP8)}), as it has scales", stored)
    if name not in grids and is_packed(model[name]) and weight == name:
        raise UnusableTensorError(name, f"floating point, or FP8 with {name}{SCALE}", model[name].dtype)


def _block_size(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of a block, by default those of transformers; None: the grid of scales says."""
    size = next(quantisation_sections(config)).get("weight_block_size", DEFAULT_BLOCK)
    if isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size):
        return size[0], size[1]
    return None


def _grid(model: ModelFolder, info: TensorInfo, block: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns of a weight that share one scale; scales of another shape raise CheckpointError."""
    scales = model.tensors.get(info.name + SCALE)
    if scales is None or len(info.shape) < 2:
        raise UnusableTensorError(info.name, f"{info.name}{SCALE} with a scale for each block", "no scales")
    rows, columns = info.shape[-2:]
    grid = scales.shape[-2:] if len(scales.shape) >= 2 else (1, 1)
    if scales.shape[:-2] != (info.shape[:-2] if scales.numel > 1 else scales.shape[:-2]):
        raise UnusableTensorError(
            info.name, f"scales for {list(info.shape[:-2])} matrices", f"{list(scales.shape)}"
        )
    if block and grid == (math.ceil(rows / block[0]), math.ceil(columns / block[1])):
        return block
    if len(grid) == 2 and all(grid) and rows % grid[0] == 0 and columns % grid[1] == 0:
        return rows // grid[0], columns // grid[1]
    raise UnusableTensorError(
        info.name, f"a grid of scales for blocks of {block or 'equal size'}", f"{list(scales.shape)}"
    )


def _write_shard(
    model: ModelFolder, path: Path, infos: Mapping[str, TensorInfo], grids: Mapping[str, tuple[int, int]]
) -> None:
    specs: dict[str, Spec] = {}
    for name, info in infos.items():
        if name not in grids and info.dtype not in DTYPES:
            raise UnusableTensorError(info.name, f"{', '.join(DTYPES)} or FP8 with scales", info.dtype)
        specs[name] = (torch.bfloat16 if name in grids else DTYPES[info.dtype], info.shape)
    write_blocks(
        path,
        specs,
        (
            _dequantised(model, infos[name], grids[name]) if name in grids else _stored(model, infos[name])
            for name in order(specs)
        ),
        durable=False,
    )


def _stored(model: ModelFolder, info: TensorInfo) -> Iterator[torch.Tensor]:
    """The bytes of a tensor as they are."""
    for begin in range(0, info.bytes, TILE_BYTES):
        yield read_bytes(model, info, begin, min(begin + TILE_BYTES, info.bytes))


def _dequantised(model: ModelFolder, info: TensorInfo, block: tuple[int, int]) -> Iterator[torch.Tensor]:
    """Rows in bfloat16: the product is computed in float32 and rounded once, as transformers does."""
    rows, columns = info.shape[-2:]
    scales = _scales(model, info.name + SCALE)
    tile = max(block[0], TILE_BYTES // (4 * max(columns, 1)) // block[0] * block[0])
    for matrix in range(math.prod(info.shape[:-2])):
        scales_MN = scales[matrix] if len(scales) > 1 else scales[0]
        for start in range(0, rows, tile):
            stop = min(start + tile, rows)
            begin = (matrix * rows + start) * columns
            raw = read_bytes(model, info, begin, begin + (stop - start) * columns)
            values_TN = raw.view(FP8[info.dtype]).reshape(stop - start, columns).float()
            needed = scales_MN[start // block[0] : math.ceil(stop / block[0])]
            factors = needed.repeat_interleave(block[0], 0)[: stop - start].repeat_interleave(block[1], 1)
            result_TN = (values_TN * factors[:, :columns]).bfloat16()
            if not result_TN.isfinite().all():
                raise UnusableTensorError(info.name, "finite values and scales", "NaN or infinity")
            yield result_TN


def _scales(model: ModelFolder, name: str) -> torch.Tensor:
    """Scales [E, rows, columns] in float32; exponents (E8M0, or bytes) are powers of two."""
    info = model[name]
    if info.dtype in ("F8_E8M0", "U8"):
        scales = torch.exp2(read_bytes(model, info, 0, info.bytes).float() - 127)
    else:
        scales = read_tensor(model, name).float()
    sizes = info.shape[-2:] if len(info.shape) >= 2 else (1, 1)
    return scales.reshape(-1, *sizes)


def _unquantised(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without its quantisation, also of the text model; dtypes that it names are bfloat16."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        if key in QUANTISATION:
            continue
        if key in ("dtype", "torch_dtype"):
            result[key] = "bfloat16"
        else:
            result[key] = (
                _unquantised(value) if key.endswith("_config") and isinstance(value, dict) else value
            )
    return result


def _rewrite_index(folder: Path, dropped: set[str]) -> None:
    if not (folder / MODEL_INDEX).exists():
        return
    index = read_json(folder / MODEL_INDEX)
    index["weight_map"] = {name: shard for name, shard in index["weight_map"].items() if name not in dropped}
    shards = (open_tensors(folder / shard) for shard in sorted(set(index["weight_map"].values())))
    total = sum(info.bytes for shard in shards for info in shard.tensors.values())
    write_json(folder / MODEL_INDEX, index | {"metadata": {"total_size": total}})
