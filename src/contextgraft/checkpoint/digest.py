"""Digests: of files, of tensors, and of a model as such, whatever files it is spread over."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.layout import ModelFolder, TensorInfo
from contextgraft.checkpoint.reader import Tensors, byte_blocks
from contextgraft.rope import settings

CHUNK = 1 << 22  # bytes


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(data: Any) -> str:
    """sha256 of the canonical JSON of a value: sorted keys, no spaces."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def tensor_digest(folder: Tensors, name: str) -> str:
    """sha256 of one tensor's stored bytes."""
    digest = hashlib.sha256()
    for block in byte_blocks(folder, folder[name], CHUNK):
        digest.update(block.numpy().data)
    return digest.hexdigest()


def model_digest(folder: ModelFolder, known: Mapping[str, str] | None = None) -> str:
    """The identity of a model: its tensors by name, dtype, shape and content, and its rotary settings.

    The same weights in 1 or 40 shards have the same digest. `known` holds digests of tensors read already.
    """
    known = known or {}
    digests = {name: known.get(name) or tensor_digest(folder, name) for name in folder.tensors}
    return json_digest(
        {
            "tensors": tensor_table(folder.tensors, digests),
            "rope": settings.to_json(settings.read(folder.config)),
        }
    )


def tensor_table(tensors: Mapping[str, TensorInfo], digests: Mapping[str, str]) -> dict[str, list[Any]]:
    """Name -> [dtype, shape, sha256 of the data]."""
    return {name: [info.dtype, list(info.shape), digests[name]] for name, info in tensors.items()}
