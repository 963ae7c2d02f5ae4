"""Which files of a repository belong to a model, an adapter or a graft; no others are fetched."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from contextgraft.checkpoint.model_folder import MODEL_CONFIG, MODEL_INDEX, MODEL_WEIGHTS, PICKLES
from contextgraft.checkpoint.safetensors_header import CONVERT
from contextgraft.errors import CheckpointError, PickleRefused, SourceError
from contextgraft.formats.peft import ADAPTER_CONFIG, ADAPTER_WEIGHTS, DENSE_DELTAS, TRAINED_PICKLE
from contextgraft.formats.sidecar import SIDECAR
from contextgraft.sources.pickles.names import PICKLE_INDEX, holds_adapter, pickled_shards, pickled_weights

ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
OWN_KINDS = ("adapter", "graft", "trained")  # kinds whose own contextgraft.json is fetched
SMALL_FILES = (
    "generation_config.json",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tekken.json",
    "chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
    "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
BLOCK = 1 << 20  # bytes
HEX = re.compile(r"[0-9a-f]{1,128}")
MAX_HTTP_BYTES = 50_000_000_000  # the largest file that the hub serves over plain HTTP


class RepoSibling(Protocol):
    """The metadata that the client returns for one file."""

    rfilename: str
    lfs: Any

    @property
    def size(self) -> int | None:
        """Size in bytes."""

    @property
    def blob_id(self) -> str | None:
        """Git's digest of the content."""


@dataclass(frozen=True)
class HubFile:
    """A file on the hub: its size, and the digest of its content, either SHA-256 or git's for a blob."""

    name: str
    bytes: int
    sha256: str | None
    git_sha1: str | None

    @property
    def digest(self) -> str:
        """The digest that the content must have, in hex."""
        return self.sha256 or self.git_sha1 or ""

    def hasher(self) -> "hashlib._Hash":
        """A new hash object of the algorithm of `digest`."""
        if self.sha256:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.bytes, usedforsecurity=False)

    def record(self) -> dict[str, Any]:
        """The entry of the file in contextgraft.json."""
        return {
            "bytes": self.bytes,
            **({"sha256": self.sha256} if self.sha256 else {"git_sha1": self.git_sha1}),
        }


def has_digest(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a file has the size and the digest of its entry in a record; OSError if it cannot be read."""
    file = HubFile(path.name, facts["bytes"], facts.get("sha256"), facts.get("git_sha1"))
    digest = file.hasher()
    with path.open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
        return content.tell() == file.bytes and digest.hexdigest() == file.digest


@dataclass(frozen=True)
class TransferPlan:
    """A transfer that is about to start: an earlier run left `present` bytes, the disk has `free` bytes."""

    source: str
    commit: str
    files: tuple[HubFile, ...]
    present: int
    free: int

    @property
    def bytes(self) -> int:
        """Total size of the files."""
        return sum(file.bytes for file in self.files)


def hub_file(sibling: RepoSibling, source: str) -> HubFile:
    """A file with its size (-1 if missing) and digest as the hub records them.

    SourceError for values that are not a name, a size or a digest; `source` is named in it.
    """
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    size = sibling.lfs.size if sibling.lfs else sibling.size
    name, blob = sibling.rfilename, sibling.blob_id
    digests = all(
        value is None or (isinstance(value, str) and HEX.fullmatch(value)) for value in (sha256, blob)
    )
    if not isinstance(name, str) or not digests or not (size is None or type(size) is int):
        raise SourceError(
            "the response is not that of a hub", path=source,
            received=f"a file {name!r:.80} of size {size!r:.40} and digest {sha256 or blob!r:.80}",
        )  # fmt: skip
    return HubFile(name, -1 if size is None else size, sha256, blob)


Listing = Mapping[str, HubFile]
Read = Callable[[str], dict[str, Any]]


def select_files(
    listing: Listing, read: Read, source: str, *, convert_pickles: bool = False
) -> tuple[str, ...]:
    """Names of the files to fetch, weights last; `read` returns one small JSON file of the repository.

    With `convert_pickles` the weights may be pickles.
    Repositories without safetensors raise PickleRefused or CheckpointError, as do indexes and manifests that
    name missing files.
    """
    kind = read(SIDECAR).get("kind") if SIDECAR in listing else None
    pickles = _pickles(listing, read, source) if convert_pickles else []
    weights = pickles or _weights(listing, read, kind, source)
    for name in weights:
        _check(listing, name, source, pickles)
    own = (SIDECAR,) if kind in OWN_KINDS else ()
    return tuple(dict.fromkeys([*own, *(name for name in sorted(listing) if is_small_file(name)), *weights]))


def is_small_file(name: str) -> bool:
    """Whether a file accompanies weights: tokenizer, chat template, licence."""
    return any(fnmatchcase(name, pattern) for pattern in SMALL_FILES) and is_safe_name(name)


def shards(index: Mapping[str, Any], source: str) -> list[str]:
    """Names of the shards in an index, sorted."""
    weight_map = index.get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError("weight_map is missing or malformed", path=f"{source}/{MODEL_INDEX}")
    return sorted(set(names))


def is_safe_name(name: str) -> bool:
    """Whether a file name from a remote list is printable and stays inside the folder it is joined to."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return name == path.as_posix() and not path.is_absolute() and not hidden and _text(name)


def _text(name: str) -> bool:
    return (
        name.isprintable() and "\\" not in name and all(len(part.encode()) <= 255 for part in name.split("/"))
    )


def _pickles(listing: Listing, read: Read, source: str) -> list[str]:
    """Config and pickles of a repository whose weights, or a part of them, are not safetensors."""
    chosen = pickled_weights(listing)
    if not chosen:
        return []
    if not holds_adapter(listing):
        index = [name for name in chosen if name == PICKLE_INDEX]
        shards = [name for file in index for name in pickled_shards(read(file), f"{source}/{file}")]
        return [MODEL_CONFIG, *chosen, *shards]
    stored = [ADAPTER_WEIGHTS] if ADAPTER_WEIGHTS in listing else []
    return [ADAPTER_CONFIG, *stored, *chosen]


def _weights(listing: Listing, read: Read, kind: object, source: str) -> list[str]:
    if kind == "graft":
        files = read(SIDECAR).get("files")
        if not isinstance(files, dict):
            raise CheckpointError("the list of files is missing or malformed", path=f"{source}/{SIDECAR}")
        return sorted(files, key=lambda name: (name.endswith(".safetensors"), name))
    if MODEL_CONFIG in listing and MODEL_INDEX in listing:
        return [MODEL_CONFIG, MODEL_INDEX, *shards(read(MODEL_INDEX), source)]
    if MODEL_CONFIG in listing and MODEL_WEIGHTS in listing:
        return [MODEL_CONFIG, MODEL_WEIGHTS]
    if all(name in listing for name in ADAPTER_FILES) and TRAINED_PICKLE not in listing:
        return [*ADAPTER_FILES, *([DENSE_DELTAS] if DENSE_DELTAS in listing else [])]
    raise _unusable(listing, source)


def _check(listing: Listing, name: str, source: str, pickles: Sequence[str]) -> None:
    if not isinstance(name, str) or not is_safe_name(name):
        raise CheckpointError("references a file outside its folder", path=source, received=repr(name)[:80])
    if name.endswith(PICKLES) and name not in pickles:
        raise PickleRefused(
            "references pickles, which are never loaded",
            path=source,
            received=name[:80],
            remedy=_convert(source),
        )
    if name not in listing:
        raise CheckpointError(
            "references a file that the repository does not have", path=source, received=name[:80],
            remedy="use another revision, or report it to the owners",
        )  # fmt: skip


def _convert(source: str) -> str:
    return CONVERT.replace("FOLDER", source)


def _unusable(listing: Listing, source: str) -> CheckpointError:
    """The error for a repository without safetensors, by what it has instead."""
    weights = sorted(
        name for name in listing if re.search(r"\.(safetensors|gguf)$", name) or name.endswith(PICKLES)
    )
    pickles = [name for name in weights if name.endswith(PICKLES)]
    ggufs = [name for name in weights if name.endswith(".gguf")]
    if pickles:
        return PickleRefused(
            "only has weights as pickles, which are never loaded", path=source, received=pickles[0][:80],
            remedy=f"use a revision with safetensors (often refs/pr/1); or {_convert(source)}",
        )  # fmt: skip
    if ggufs:
        repository = source.removeprefix("hf:").partition("@")[0]
        return CheckpointError(
            "only has weights as GGUF", path=source, received=ggufs[0][:80],
            remedy=f"`hf download {repository} FILE.gguf --local-dir DIR`, and use that file",
        )  # fmt: skip
    return CheckpointError(
        "neither a model nor an adapter", path=source,
        expected=f"{MODEL_CONFIG} with {MODEL_WEIGHTS} or {MODEL_INDEX}, or {' and '.join(ADAPTER_FILES)}",
        received=", ".join(weights)[:120] or "no weights",
    )  # fmt: skip
