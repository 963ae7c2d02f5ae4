"""Adapters merged into a target: same files and dtypes, with the donor's RoPE settings."""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contextgraft.adapter.analysis.card import write_graft_card
from contextgraft.adapter.compute.tensor_pool import Buffers, for_each_tensor
from contextgraft.adapter.merge.kernels.evidence import TensorEvidence, copied_evidence
from contextgraft.adapter.merge.manifest import LIBRARY, finish
from contextgraft.adapter.merge.plan import MergePlan
from contextgraft.adapter.merge.tensor import merge_planned
from contextgraft.checkpoint.atomic import publish
from contextgraft.checkpoint.digest import bytes_digest, tensor_digest
from contextgraft.checkpoint.file_io import copy_range, write_all
from contextgraft.checkpoint.input_files import InputFiles
from contextgraft.checkpoint.resume import ResumeLog, input_files
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
    existing graft at `out` raises OutputError unless `replace`; a record without a graft is replaced.
    """
    target = plan.target
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
            tensors = plan.layout.tensors
            names = sorted(tensors, key=lambda name: (tensors[name].shard, tensors[name].begin))
            for_each_tensor(step.run, names, threads, device)
            for flush in flushed:
                flush.result()  # raises what the disk reported
        records = {name: log.get(name) or {} for name in plan.layout.tensors}
        manifest = finish(plan, work, records, device)
        write_graft_card(work, manifest)
        if check is not None:
            check(manifest)
        return manifest


@dataclass(frozen=True)
class _Shard:
    """A file of the target and of the graft, both open, and the name of its last tensor."""

    old: int
    new: int
    last: str


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
            copy_range(shard.old, shard.new, target[name].begin, target[name].end, info.begin)
            return copied_evidence(tensor_digest(target, name))
        return merge_planned(
            self.plan, name, buffers=buffers, device=self.device,
            write=lambda offset, data: write_all(shard.new, data, info.begin + offset),
        )  # fmt: skip
