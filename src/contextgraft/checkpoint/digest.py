"""Digests: of files, of tensors, and of a model as such, whatever files it is spread over."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from contextgraft.checkpoint.model_folder import ModelFolder, TensorInfo
from contextgraft.checkpoint.tensor_bytes import Tensors, byte_blocks
from contextgraft.rope import settings

CHUNK = 1 << 20  # bytes

Hasher = blake3


def hasher() -> Hasher:
    """The hash behind every digest: BLAKE3, a quarter of SHA-256's time where that has instructions."""
    return blake3()


def file_digest(path: Path) -> str:
    """Digest of a file's bytes, in hex."""
    with path.open("rb") as file:
        return bytes_digest(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def bytes_digest(handle: int, begin: int, end: int) -> str:
    """Digest of bytes [begin, end) of an open file, or of as many as there are."""
    digest = hasher()
    while begin < end and (block := os.pread(handle, min(CHUNK, end - begin), begin)):
        digest.update(block)
        begin += len(block)
    return digest.hexdigest()


def json_digest(data: Any) -> str:
    """Digest of the canonical JSON of a value: sorted keys, no spaces."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return blake3(text.encode()).hexdigest()


def tensor_digest(folder: Tensors, name: str) -> str:
    """Digest of one tensor's stored bytes."""
    digest = hasher()
    for block in byte_blocks(folder, folder[name], CHUNK):
        digest.update(block)
    return digest.hexdigest()


def tensor_digests(
    folder: ModelFolder, known: Mapping[str, str] | None = None, advance: Callable[[int], object] = int
) -> dict[str, str]:
    """Digest of every tensor by name; those that `known` does not have are computed.

    `advance` is called with the bytes of each tensor that is done.
    """
    digests = dict(known or {})
    for name, info in folder.tensors.items():
        digests[name] = digests.get(name) or tensor_digest(folder, name)
        advance(info.bytes)
    return {name: digests[name] for name in folder.tensors}


def model_digest(folder: ModelFolder, known: Mapping[str, str] | None = None) -> str:
    """The identity of a model: its tensors by name, dtype, shape and content, and its rotary settings.

    The same weights in 1 or 40 shards have the same digest. `known` holds digests of tensors read already.
    """
    return json_digest(
        {
            "tensors": tensor_table(folder.tensors, tensor_digests(folder, known)),
            "rope": settings.to_json(settings.read_stated(folder.config, folder.path)),
        }
    )


def tensor_table(tensors: Mapping[str, TensorInfo], digests: Mapping[str, str]) -> dict[str, list[Any]]:
    """Stored name -> [dtype, shape, digest of the data]."""
    return {info.name: [info.dtype, list(info.shape), digests[name]] for name, info in tensors.items()}
