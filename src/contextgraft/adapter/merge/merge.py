"""Adapters merged into a target: same files and dtypes, with the donor's RoPE settings."""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from threading import Lock
from typing import Any

from contextgraft.adapter.analysis.card import write_graft_card
from contextgraft.adapter.compute.tensor_pool import Buffers, for_each_tensor
from contextgraft.adapter.merge.kernels.evidence import TensorEvidence, copied_evidence
from contextgraft.adapter.merge.manifest import LIBRARY, finish
from contextgraft.adapter.merge.plan import MergePlan
from contextgraft.adapter.merge.tensor import merge_planned
from contextgraft.checkpoint.atomic import publish
from contextgraft.checkpoint.digest import bytes_digest, tensor_digest
from contextgraft.checkpoint.file_io import CHUNK, copy_range, write_all
from contextgraft.checkpoint.input_files import InputFiles
from contextgraft.checkpoint.resume import ResumeLog, input_files
from contextgraft.formats.model.copied_files import check_readable
from contextgraft.formats.sidecar import is_record

ManifestCheck = Callable[[Mapping[str, Any]], object] | None

LARGE = 1 << 26  # bytes; a larger tensor is flushed to the disk when it is written


def merge(
    plan: MergePlan,
    out: Path,
    *,
    replace: bool = False,
    threads: int = 1,
    device: str = "cpu",
    advance: Callable[[int], object] = int,
    check: ManifestCheck = None,
) -> dict[str, Any]:
    """Write the graft to `out` and return its manifest; `advance` is called with bytes of the target.

    `check` is called with the manifest before the graft appears at `out`, which it prevents by an error.

    A rerun with the same inputs continues after the last complete tensor and writes the same bytes. An
    existing graft at `out` raises OutputError unless `replace`; a record without a graft is replaced. A
    tokenizer or another small file that cannot be read raises CheckpointError.
    """
    target = plan.target
    check_readable(plan.origins)
    inputs = [file.path / file.name for item in plan.active for file in item.adapter.files]
    job = {
        "verb": "merge",
        "files": InputFiles(
            inputs
        ),  # recorded before the digests are computed, so that any later change is detected
        "target": input_files(target),
        "adapters": [[item.adapter.digest, item.scale] for item in plan.adapters],
        "rope": repr(plan.rope),
        "rounding": plan.rounding,
        "tokenizer": InputFiles(plan.tokenizer_files),
        "device": device,
        **LIBRARY,
    }
    folders = [target.path, *(item.adapter.path for item in plan.adapters)]
    replaced = replace or is_record(out)
    with publish(out, replace=replaced, inputs=folders) as work, ResumeLog(work, job) as log:
        with _opened(plan, work) as shards, ThreadPoolExecutor(1) as flusher:
            flushed: list[Future[None]] = []
            step = _MergeStep(
                plan,
                log,
                shards,
                lambda f: flushed.append(flusher.submit(os.fdatasync, f)),
                device,
                advance,
            )
            for_each_tensor(step.run, list(in_turns(plan, threads)), threads, device)
            for flush in flushed:
                flush.result()  # raises what the disk reported
        records = {name: log.get(name) or {} for name in plan.layout.tensors}
        manifest = finish(plan, work, records, device)
        write_graft_card(work, manifest)
        if check is not None:
            check(manifest)
        return manifest


def in_turns(plan: MergePlan, threads: int) -> Iterator[str]:
    """Names of all tensors, in turns from as many files as there are threads.

    Threads that write to one file wait for each other.
    """
    by_shard: dict[str, list[str]] = {}
    tensors = plan.layout.tensors
    for name in sorted(tensors, key=lambda name: (tensors[name].shard, tensors[name].begin)):
        by_shard.setdefault(tensors[name].shard, []).append(name)
    shards = list(by_shard.values())
    for first in range(0, len(shards), threads):
        for names in zip_longest(*shards[first : first + threads]):
            yield from (name for name in names if name is not None)


@dataclass(frozen=True)
class _Shard:
    """A file of the target and of the graft, both open, and the name of its last tensor.

    The kernel lets one thread write to a file at a time, and the others spin; with `turn` they sleep.
    """

    old: int
    new: int
    last: str
    turn: Lock = field(default_factory=Lock)

    def write(self, data: memoryview, offset: int) -> None:
        """Write to the graft's file."""
        with self.turn:
            write_all(self.new, data, offset)

    def copy(self, begin: int, end: int, to: int) -> None:
        """Copy bytes [begin, end) of the target's file to the offset `to`."""
        for first in range(begin, end, CHUNK):
            with self.turn:
                copy_range(self.old, self.new, first, min(first + CHUNK, end), to + first - begin)


@contextmanager
def _opened(plan: MergePlan, work: Path) -> Iterator[dict[str, _Shard]]:
    """All shards, the new ones with header and size; one that an interrupted run began is continued."""
    shards: dict[str, _Shard] = {}
    try:
        for name in plan.target.shards:
            old = os.open(plan.target.path / name, os.O_RDONLY)
            new = os.open(work / name, os.O_RDWR | os.O_CREAT, 0o666)
            layout = plan.layout.shards[name]
            shards[name] = _Shard(old, new, layout.last)
            os.ftruncate(new, layout.size)
            if os.pread(new, len(layout.header), 0) != layout.header:
                write_all(new, memoryview(layout.header), 0)
        yield shards
    finally:
        for shard in shards.values():
            os.close(shard.old)
            os.close(shard.new)


@dataclass(frozen=True)
class _MergeStep:
    """The work on one tensor: copy or compute, and record."""

    plan: MergePlan
    log: ResumeLog
    shards: dict[str, _Shard]
    flush: Callable[[int], object]
    device: str
    advance: Callable[[int], object]

    def run(self, name: str, buffers: Buffers) -> None:
        info = self.plan.layout.tensors[name]
        shard = self.shards[info.shard]
        if not self._finished(name, shard):
            self.log.put(name, asdict(self._write(name, shard, buffers)))
        if name == shard.last or info.bytes >= LARGE:
            self.flush(shard.new)  # so that little is left to flush at the end
        self.advance(info.bytes)

    def _finished(self, name: str, shard: _Shard) -> bool:
        """Whether the step is recorded and its bytes intact, which they may not be after a loss of power."""
        record = self.log.get(name)
        info = self.plan.layout.tensors[name]
        return record is not None and bytes_digest(shard.new, info.begin, info.end) == record["digest_after"]

    def _write(self, name: str, shard: _Shard, buffers: Buffers) -> TensorEvidence:
        target, info = self.plan.target, self.plan.layout.tensors[name]
        if name not in self.plan.fit.changes:
            shard.copy(target[name].begin, target[name].end, info.begin)
            return copied_evidence(tensor_digest(target, name))
        return merge_planned(
            self.plan, name, buffers=buffers, device=self.device,
            write=lambda offset, data: shard.write(data, info.begin + offset),
        )  # fmt: skip
