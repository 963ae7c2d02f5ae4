"""Adapters merged into a target: with the layout and dtype it had, and RoPE repaired."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contextgraft.adapter.compute.parallel import each
from contextgraft.adapter.compute.workspace import Workspace
from contextgraft.adapter.merge.manifest import finish
from contextgraft.adapter.merge.plan import Graft
from contextgraft.adapter.merge.rounding import ROUNDINGS
from contextgraft.adapter.merge.tensor import Applied, apply
from contextgraft.checkpoint.atomic import publish
from contextgraft.checkpoint.digest import bytes_digest, tensor_digest
from contextgraft.checkpoint.file_io import copy_range, write_all
from contextgraft.checkpoint.resume import ResumeLog, input_files, list_inputs
from contextgraft.checkpoint.safetensors_header import open_tensors

LARGE = 1 << 26  # bytes of a tensor after which the disk begins to write


def merge(
    graft: Graft,
    out: Path,
    *,
    replace: bool = False,
    threads: int = 1,
    device: str = "cpu",
    advance: Callable[[int], object] = int,
) -> dict[str, Any]:
    """Write the graft to `out` and return its manifest; `advance` hears of the target's bytes dealt with.

    A rerun with the same inputs continues after the last complete tensor and writes the same bytes. An
    existing graft at `out` raises OutputError unless `replace`.
    """
    target = graft.target
    inputs = [file.path / file.name for item in graft.acting for file in item.adapter.files]
    job = {
        "verb": "merge",
        "files": list_inputs(inputs),  # before the digests are taken: a change after that is noticed
        "target": input_files(target),
        "adapters": [[item.adapter.digest, item.scale] for item in graft.adapters],
        "rope": repr(graft.rope),
        "rounding": graft.rounding,
        "device": device,
    }
    with publish(out, replace=replace) as work, ResumeLog(work, job) as log:
        with _opened(graft, work) as shards, ThreadPoolExecutor(1) as flusher:
            flushed: list[Future[None]] = []
            step = _Step(
                graft,
                log,
                shards,
                lambda f: flushed.append(flusher.submit(os.fdatasync, f)),
                device,
                advance,
            )
            names = sorted(target.tensors, key=lambda name: (target[name].shard, target[name].begin))
            each(step.run, names, threads, device)
            for flush in flushed:
                flush.result()  # the disk tells of an error once
        records = {name: log.get(name) or {} for name in target.tensors}
        return finish(graft, work, records, device)


@dataclass(frozen=True)
class _Shard:
    """One file of the target and its successor, both open, and the last tensor in it."""

    old: int
    new: int
    last: str


@contextmanager
def _opened(graft: Graft, work: Path) -> Iterator[dict[str, _Shard]]:
    """All shards, the new ones with header and size: one that an earlier run began is taken up as it is."""
    shards: dict[str, _Shard] = {}
    try:
        for name in graft.target.shards:
            old = os.open(graft.target.path / name, os.O_RDONLY)
            new = os.open(work / name, os.O_RDWR | os.O_CREAT, 0o666)
            file = open_tensors(graft.target.path / name)
            shards[name] = _Shard(old, new, next(reversed(file.tensors), ""))
            os.ftruncate(new, os.fstat(old).st_size)
            copy_range(old, new, 0, file.data_begin)
        yield shards
    finally:
        for shard in shards.values():
            os.close(shard.old)
            os.close(shard.new)


@dataclass(frozen=True)
class _Step:
    """The work on one tensor: copied or computed, and put on record."""

    graft: Graft
    log: ResumeLog
    shards: dict[str, _Shard]
    flush: Callable[[int], object]
    device: str
    advance: Callable[[int], object]

    def run(self, name: str, workspace: Workspace) -> None:
        info = self.graft.target[name]
        shard = self.shards[info.shard]
        if not self._finished(name, shard):
            self.log.put(name, asdict(self._write(name, shard, workspace)))
        if name == shard.last or info.bytes >= LARGE:
            self.flush(shard.new)  # so that little is left for the end
        self.advance(info.bytes)

    def _finished(self, name: str, shard: _Shard) -> bool:
        """On record, and on the disk as recorded: a machine may have lost power since."""
        record = self.log.get(name)
        info = self.graft.target[name]
        return record is not None and bytes_digest(shard.new, info.begin, info.end) == record["digest_after"]

    def _write(self, name: str, shard: _Shard, workspace: Workspace) -> Applied:
        target = self.graft.target
        info = target[name]
        if name not in self.graft.changed:
            copy_range(shard.old, shard.new, info.begin, info.end)
            digest = tensor_digest(target, name)
            return Applied(False, 0.0, 0.0, 1.0, digest, digest)
        deltas = self.graft.deltas(name, self.device)
        rounding = ROUNDINGS[self.graft.rounding](name)
        return apply(
            target, name, deltas, rounding=rounding, workspace=workspace,
            write=lambda offset, data: write_all(shard.new, data, info.begin + offset),
        )  # fmt: skip
