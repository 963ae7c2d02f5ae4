"""The weight files of a graft: the target's, byte for byte but for tensors that are new or have more rows."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from contextgraft.adapter.merge.fit import TensorChange
from contextgraft.checkpoint.model_folder import ModelFolder, TensorFile, TensorInfo, open_tensors


@dataclass(frozen=True)
class ShardLayout:
    """One file: its header, complete with length, its size in bytes, and its last tensor."""

    header: bytes
    size: int
    last: str


@dataclass(frozen=True)
class GraftLayout:
    """Every file by name, and the position of every tensor."""

    shards: Mapping[str, ShardLayout]
    tensors: Mapping[str, TensorInfo]

    def index(self, target_index: Mapping[str, Any]) -> dict[str, Any]:
        """The target's index with the graft's tensors and their size."""
        weight_map = {name: info.shard for name, info in sorted(self.tensors.items())}
        if weight_map == target_index.get("weight_map"):
            weight_map = target_index["weight_map"]
        total = sum(info.bytes for info in self.tensors.values())
        metadata = {**(target_index.get("metadata") or {}), "total_size": total}
        return {**target_index, "metadata": metadata, "weight_map": weight_map}


def lay_out(target: ModelFolder, changes: Mapping[str, TensorChange]) -> GraftLayout:
    """Position every tensor; a new one follows the tensor that it starts from."""
    shards: dict[str, ShardLayout] = {}
    tensors: dict[str, TensorInfo] = {}
    new: dict[str, list[str]] = {}
    for name, change in sorted(changes.items()):
        if change.source != name:
            new.setdefault(change.source, []).append(name)
    for shard in target.shards:
        file = open_tensors(target.path / shard)
        infos = _infos(file, changes, new)
        if infos == list(file.tensors.values()):
            with (file.path / file.name).open("rb") as handle:
                header = handle.read(file.data_begin)
        else:
            header = _header(file.metadata, infos)
        shift = len(header) - _data_begin(infos)
        placed = [replace(info, begin=info.begin + shift, end=info.end + shift) for info in infos]
        tensors |= {info.name: info for info in placed}
        size = max((info.end for info in placed), default=len(header))
        shards[shard] = ShardLayout(header, size, placed[-1].name if placed else "")
    return GraftLayout(shards, {name: tensors[name] for name in sorted(tensors)})


def _infos(
    file: TensorFile, changes: Mapping[str, TensorChange], new: Mapping[str, list[str]]
) -> list[TensorInfo]:
    """The tensors of a file in order, with the graft's rows, one after another from the first's position.

    `new` are the graft's additional tensors, by the tensor that they start from.
    """
    infos: list[TensorInfo] = []
    position = file.data_begin
    for info in file.tensors.values():
        for name in (info.name, *new.get(info.name, ())):
            rows = changes[name].rows if name in changes else info.rows
            shape = (rows, *info.shape[1:]) if info.shape else ()
            size = info.bytes // max(info.rows, 1) * rows
            infos.append(TensorInfo(name, info.dtype, shape, file.name, position, position + size))
            position += size
    return infos


def _data_begin(infos: list[TensorInfo]) -> int:
    return infos[0].begin if infos else 0


def _header(metadata: Mapping[str, str], infos: list[TensorInfo]) -> bytes:
    begin = _data_begin(infos)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for info in infos:
        offsets = [info.begin - begin, info.end - begin]
        header[info.name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
