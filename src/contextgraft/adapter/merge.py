"""An adapter merged into a target: shard by shard, with the layout and dtype it had, and RoPE repaired."""

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contextgraft.adapter.apply import Applied, apply
from contextgraft.adapter.graft import Graft
from contextgraft.adapter.parallel import each
from contextgraft.checkpoint.copying import copy_range, write_all
from contextgraft.checkpoint.digest import file_digest, tensor_digest
from contextgraft.checkpoint.identity import SIDECAR, identity, sidecar
from contextgraft.checkpoint.journal import Journal, stamp
from contextgraft.checkpoint.layout import CONFIG, INDEX, open_tensors, read_json
from contextgraft.checkpoint.publish import publish, write_json
from contextgraft.rope import settings

TOKENIZER = "tokenizer_config.json"
LENGTH = "model_max_length"


def merge(
    graft: Graft, out: Path, *, threads: int = 1, advance: Callable[[int], object] = int
) -> dict[str, Any]:
    """Write the graft to `out` and return its manifest; `advance` hears of the target's bytes dealt with.

    A rerun with the same inputs goes on after the last whole shard, to the same bytes.
    """
    adapter_digest = graft.adapter.digest()
    job = {
        "verb": "merge",
        "adapter": adapter_digest,
        "target": stamp(graft.target),
        "scale": graft.scale,
    }
    with publish(out) as work, Journal(work, job) as journal:
        tensors: dict[str, dict[str, Any]] = {}
        for shard in graft.target.shards:
            done = journal.get(shard)
            if done is None:
                done = _Shard(graft, shard, work, advance).write(threads)
                journal.put(shard, done)
            else:
                advance(sum(graft.target[name].bytes for name in done))
            tensors |= done
        lengths = _write_rest(graft, work)
        manifest = _manifest(graft, adapter_digest, tensors, lengths, work)
        write_json(work / SIDECAR, manifest)
    return manifest


@dataclass(frozen=True)
class _Shard:
    """One file of the target on its way: header and untouched tensors copied, changed tensors computed."""

    graft: Graft
    shard: str
    work: Path
    advance: Callable[[int], object]

    def write(self, threads: int) -> dict[str, dict[str, Any]]:
        """Write the whole file, durable, and return the evidence by tensor."""
        source = open_tensors(self.graft.target.path / self.shard)
        evidence: dict[str, Applied] = {}
        with (
            (source.path / self.shard).open("rb") as old,
            (self.work / self.shard).open("wb") as new,
        ):
            copy_range(old.fileno(), new.fileno(), 0, source.data_begin)

            def one(name: str) -> None:
                evidence[name] = self._tensor(name, old.fileno(), new.fileno())
                self.advance(source[name].bytes)

            each(one, source.tensors, threads)
            os.fsync(new.fileno())
        return {name: asdict(evidence[name]) for name in sorted(evidence)}

    def _tensor(self, name: str, old: int, new: int) -> Applied:
        target = self.graft.target
        info = target[name]
        if name not in self.graft.changed:
            copy_range(old, new, info.begin, info.end)
            digest = tensor_digest(target, name)
            return Applied(False, 0.0, 0.0, digest, digest)
        change = self.graft.adapter.change(name, self.graft.scale)
        return apply(target, name, change, lambda offset, data: write_all(new, data, info.begin + offset))


def _write_rest(graft: Graft, work: Path) -> list[Any] | None:
    """Config with the donor's RoPE, tokenizer with its length, other files as they are; both lengths."""
    target = graft.target
    write_json(work / CONFIG, settings.apply(target.config, graft.adapter.donor_rope))
    if (target.path / INDEX).exists():
        shutil.copyfile(target.path / INDEX, work / INDEX)
    for name in graft.copied:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(target.path / name, work / name)
    if TOKENIZER not in graft.copied:
        return None
    tokenizer = read_json(target.path / TOKENIZER)
    length = graft.adapter.donor_rope.max_positions
    write_json(work / TOKENIZER, tokenizer | {LENGTH: length})
    return [tokenizer.get(LENGTH), length]


def _manifest(
    graft: Graft, adapter_digest: str, tensors: dict[str, Any], lengths: list[Any] | None, work: Path
) -> dict[str, Any]:
    known = {name: record["digest_before"] for name, record in tensors.items()}
    before = settings.read(graft.target.config)
    origin = {key: graft.adapter.sidecar[key] for key in ("rank", "base", "donor")}
    names = [*graft.target.shards, *graft.copied, CONFIG, *([INDEX] if (work / INDEX).exists() else [])]
    return sidecar(
        "graft",
        adapter={"digest": adapter_digest, **origin},
        target=identity(graft.target, known),
        scale=graft.scale,
        rope={"before": settings.to_json(before), "after": settings.to_json(graft.adapter.donor_rope)},
        tokenizer={LENGTH: lengths} if lengths else {},
        tensors=tensors,
        files={
            name: {"bytes": (work / name).stat().st_size, "sha256": file_digest(work / name)}
            for name in sorted(names)
        },
        left_out=list(graft.left_out),
    )
