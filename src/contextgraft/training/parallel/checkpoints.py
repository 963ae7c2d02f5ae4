"""Checkpoints of a distributed run, readable by any number of ranks: torch.distributed.checkpoint, no pickle.

`checkpoints/step-00000012/` is complete; a folder whose name ends in `.partial` is not, and is never read.
A complete one has a record of its run, and of the size and digest of each file.
"""

import os
import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch.distributed.checkpoint import staging
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Placement, Replicate, Shard, zeros
from torch.futures import Future as WriteFuture
from typing_extensions import override

from contextgraft.checkpoint.atomic import remove, write_json
from contextgraft.checkpoint.digest import file_digest
from contextgraft.checkpoint.model_folder import read_json
from contextgraft.errors import CheckpointError, OutputError, raise_read_error
from contextgraft.training.state import CHECKPOINTS, SavedState, run_digest

PARTIAL = ".partial"
COMPLETE = re.compile(r"step-\d{8,}")
RECORD = "record.json"  # in a complete checkpoint: its run and its files
READERS = 8  # files that are hashed at once


class RecordingWriter(HuggingFaceStorageWriter):
    """Each rank computes the digest of the file that it has written; the main process records all of them.

    That happens in the thread that writes, while the file is in the page cache.
    """

    def __init__(self, folder: Path, run: str) -> None:
        super().__init__(str(folder), save_distributed=True)
        self.folder, self.run = folder, run

    @override
    def write_data(self, plan: SavePlan, planner: SavePlanner) -> WriteFuture[list[WriteResult]]:
        """Write this rank's file; the results carry its name, size and digest to the main process."""
        results = super().write_data(plan, planner).wait()
        files = _files({result.storage_data.relative_path for result in results}, self.folder)
        written: WriteFuture[list[WriteResult]] = WriteFuture()
        written.set_result([replace(result, storage_data=files) for result in results])
        return written

    @override
    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the record, in the main process, when all ranks have written."""
        super().finish(metadata, results)
        files = {
            name: facts for rank in results for item in rank for name, facts in item.storage_data.items()
        }
        write_json(self.folder / RECORD, {"run": self.run, "files": files})


@dataclass(frozen=True)
class PendingCheckpoint:
    """A checkpoint that is being written while training continues."""

    folder: Path
    future: Future[object]


def pinned_stager(device: torch.device) -> staging.AsyncStager | None:
    """Copies a state from a GPU to pinned host memory, at the speed of the link; None for processors.

    The memory is kept for later checkpoints of the same tensors, and freed with them.
    """
    if device.type != "cuda":
        return None
    options = staging.StagingOptions(
        use_pinned_memory=True, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=True
    )
    return staging.DefaultStager(options)


def start_saving(
    saved: SavedState, work: Path, group: dist.ProcessGroup, stager: staging.AsyncStager | None = None
) -> PendingCheckpoint:
    """Start writing a state in the background; its tensors are copied, by `stager`, before this returns."""
    folder = work / CHECKPOINTS / f"step-{saved.step:08d}"
    writer = RecordingWriter(Path(str(folder) + PARTIAL), run_digest(work, saved.step))
    saving = async_save(dict(saved.tensors), storage_writer=writer, process_group=group, async_stager=stager)
    assert isinstance(saving, Future)
    return PendingCheckpoint(folder, saving)


def finish_saving(pending: PendingCheckpoint, *, main: bool, keep: int) -> None:
    """Wait until every rank has written; the main process then renames the folder and removes older ones.

    `keep` is how many complete checkpoints stay. One that cannot be written raises OutputError.
    """
    partial, work = Path(str(pending.folder) + PARTIAL), pending.folder.parents[1]
    try:
        pending.future.result()
        if main:
            remove(pending.folder)
            partial.rename(pending.folder)
    except (CheckpointException, OSError) as error:
        raise OutputError(
            "the checkpoint cannot be written",
            path=pending.folder,
            received=_cause(error),
            remedy="free disk space and run the same command again: it resumes at the previous checkpoint",
        ) from None
    if main:
        for old in complete_checkpoints(work)[:-keep]:
            remove(old)


def complete_checkpoints(work: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in (work / CHECKPOINTS).glob("step-*") if COMPLETE.fullmatch(path.name))


def remove_unusable(work: Path) -> int:
    """Remove unfinished checkpoints, and spoiled ones later than the latest usable one; returns its step.

    0 if none is left. Those before it are not read. The files of an unfinished checkpoint would mix with
    those of the next one of the same step. No other process may write there at the same time.
    """
    for path in (work / CHECKPOINTS).glob("*"):
        if not COMPLETE.fullmatch(path.name):
            remove(path)
    for folder in reversed(complete_checkpoints(work)):
        if _is_usable(folder, work):
            return _step(folder)
        remove(folder)
    return 0


def _is_usable(folder: Path, work: Path) -> bool:
    """Whether a checkpoint is what its record says; those of earlier versions have none."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    if not os.path.lexists(folder / RECORD):
        return True
    try:
        record = read_json(folder / RECORD)
        names = {path.name for path in folder.glob("*.safetensors")}
        same = record == {"run": run_digest(work, _step(folder)), "files": record.get("files")}
        return same and record["files"] == _files(names, folder)
    except (CheckpointError, OSError) as error:
        raise_read_error(error, folder)
        return False


def _files(names: set[str], folder: Path) -> dict[str, list[int | str]]:
    """Size in bytes and digest of files of a folder, by name; several are read at once."""
    paths = [folder / name for name in sorted(names)]
    with ThreadPoolExecutor(READERS) as pool:
        return {
            path.name: [path.stat().st_size, digest]
            for path, digest in zip(paths, pool.map(file_digest, paths), strict=True)
        }


def load_checkpoint(
    work: Path, mesh: DeviceMesh | None = None, group: dist.ProcessGroup | None = None
) -> SavedState:
    """The latest complete checkpoint, or an empty state if there is none.

    Tensors are sharded by rows over `mesh`, in each of its replicas, whatever number of ranks wrote them;
    without a mesh they are full.
    """
    folders = complete_checkpoints(work)
    if not folders:
        return SavedState()
    reader = HuggingFaceStorageReader(str(folders[-1]))
    try:
        tensors = {
            name: _empty(item.size, mesh)
            for name, item in reader.read_metadata().state_dict_metadata.items()
            if isinstance(item, TensorStorageMetadata)
        }
        dcp_load(tensors, storage_reader=reader, process_group=group, no_dist=mesh is None)
    except (CheckpointException, SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            "cannot be read",
            path=folders[-1],
            received=_cause(error),
            remedy="remove it to use the previous one",
        ) from None
    return SavedState(_step(folders[-1]), tensors)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _empty(shape: torch.Size, mesh: DeviceMesh | None) -> torch.Tensor:
    if mesh is None:
        return torch.zeros(shape)
    return zeros(shape, device_mesh=mesh, placements=placements(mesh))


def placements(mesh: DeviceMesh) -> list[Placement]:
    """Rows are sharded over the last dimension of a mesh, the same in each replica of another one."""
    return [Replicate()] * (mesh.ndim - 1) + [Shard(0)]


def _cause(error: BaseException) -> str:
    """The first failure that a rank reported."""
    if isinstance(error, CheckpointException):
        failures: Mapping[int, tuple[BaseException, object]] = error.failures
        return str(next(iter(failures.values()))[0])[:120]
    return str(error)[:120]
