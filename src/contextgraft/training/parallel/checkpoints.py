"""Checkpoints of a distributed run, readable by any number of ranks: torch.distributed.checkpoint, no pickle.

`checkpoints/step-00000012/` is complete; a folder whose name ends in `.partial` is not, and is never read.
"""

import shutil
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

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

from contextgraft.errors import CheckpointError, OutputError
from contextgraft.training.state import CHECKPOINTS, SavedState

PARTIAL = ".partial"


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
    try:
        pending.future.result()
    except (CheckpointException, OSError) as error:
        raise OutputError(
            "the checkpoint cannot be written",
            path=pending.folder,
            received=_cause(error),
            remedy="free disk space and run the same command again: it resumes at the previous checkpoint",
        ) from None
    if main:
        Path(str(pending.folder) + PARTIAL).rename(pending.folder)
        for old in complete_checkpoints(pending.folder.parents[1])[:-keep]:
            shutil.rmtree(old)


def complete_checkpoints(work: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in (work / CHECKPOINTS).glob("step-*") if path.suffix != PARTIAL)


def remove_partial(work: Path) -> int:
    """Remove checkpoints that a killed run left unfinished; returns the step of the latest complete one.

    The files of an unfinished checkpoint would mix with those of the next one of the same step. No other
    process may write there at the same time.
    """
    for partial in (work / CHECKPOINTS).glob(f"step-*{PARTIAL}"):
        shutil.rmtree(partial)
    return max((_step(folder) for folder in complete_checkpoints(work)), default=0)


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
