"""Checkpoints of a distributed run, readable by any number of ranks: torch.distributed.checkpoint, no pickle.

`checkpoints/step-00000012/` is complete; a folder whose name ends in `.partial` is not, and is never read.
A complete one has a record of its run, and of the sizes and headers of its files.
"""

import os
import re
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, zeros

from contextgraft.checkpoint.atomic import remove, write_json
from contextgraft.checkpoint.digest import bytes_digest
from contextgraft.checkpoint.model_folder import read_json
from contextgraft.errors import CheckpointError, OutputError
from contextgraft.training.state import CHECKPOINTS, SavedState, run_digest

PARTIAL = ".partial"
COMPLETE = re.compile(r"step-\d{8,}")
RECORD = "record.json"  # in a complete checkpoint: its run and its files


@dataclass(frozen=True)
class PendingCheckpoint:
    """A checkpoint that is being written while training continues."""

    folder: Path
    future: Future[object]


def start_saving(saved: SavedState, work: Path, group: dist.ProcessGroup) -> PendingCheckpoint:
    """Start writing a state in the background; its tensors are copied before this returns."""
    folder = work / CHECKPOINTS / f"step-{saved.step:08d}"
    writer = HuggingFaceStorageWriter(str(folder) + PARTIAL, save_distributed=True)
    saving = async_save(dict(saved.tensors), storage_writer=writer, process_group=group)
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
            write_json(partial / RECORD, _record(partial, work, _step(pending.folder)))
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
    """Remove unfinished and spoiled checkpoints, and those of another run; returns the latest step left.

    The files of an unfinished checkpoint would mix with those of the next one of the same step. No other
    process may write there at the same time.
    """
    for path in (work / CHECKPOINTS).glob("*"):
        if not COMPLETE.fullmatch(path.name) or not _is_usable(path, work):
            remove(path)
    return max((_step(folder) for folder in complete_checkpoints(work)), default=0)


def _is_usable(folder: Path, work: Path) -> bool:
    """Whether a checkpoint is what its record says; those of earlier versions have none."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    if not os.path.lexists(folder / RECORD):
        return True
    try:
        return read_json(folder / RECORD) == _record(folder, work, _step(folder))
    except (CheckpointError, OSError):
        return False


def _record(folder: Path, work: Path, step: int) -> dict[str, Any]:
    """The run of a checkpoint, with size and header of each file: a digest of all bytes takes too long."""
    files = {path.name: _size_and_header(path) for path in sorted(folder.glob("*.safetensors"))}
    return {"run": run_digest(work, step), "files": files}


def _size_and_header(path: Path) -> list[int | str]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = os.fstat(file.fileno()).st_size
        return [size, bytes_digest(file.fileno(), 0, min(8 + length, size))]


def load_checkpoint(
    work: Path, mesh: DeviceMesh | None = None, group: dist.ProcessGroup | None = None
) -> SavedState:
    """The latest complete checkpoint, or an empty state if there is none.

    Tensors are sharded by rows over `mesh`, whatever number of ranks wrote them; without a mesh they are
    full.
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
    return torch.zeros(shape) if mesh is None else zeros(shape, device_mesh=mesh, placements=[Shard(0)])


def _cause(error: BaseException) -> str:
    """The first failure that a rank reported."""
    if isinstance(error, CheckpointException):
        failures: Mapping[int, tuple[BaseException, object]] = error.failures
        return str(next(iter(failures.values()))[0])[:120]
    return str(error)[:120]
