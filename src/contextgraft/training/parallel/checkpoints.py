"""Checkpoints of many ranks, for any number of ranks: torch.distributed.checkpoint, no pickle.

`checkpoints/step-00000012/` is whole; a name that ends in `.partial` is not, and is never read.
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
from contextgraft.training.state import SHARED, State

PARTIAL = ".partial"


@dataclass(frozen=True)
class Pending:
    """A checkpoint that is being written beside the training."""

    folder: Path
    future: Future[object]


def begin(state: State, work: Path, group: dist.ProcessGroup) -> Pending:
    """Start to write a state; its tensors are copied before this returns."""
    folder = work / SHARED / f"step-{state.step:08d}"
    writer = HuggingFaceStorageWriter(str(folder) + PARTIAL, save_distributed=True)
    saving = async_save(dict(state.tensors), storage_writer=writer, process_group=group)
    assert isinstance(saving, Future)
    return Pending(folder, saving)


def settle(pending: Pending, *, main: bool, keep: int) -> None:
    """Wait until every rank has written, then let the main process give the name and remove older ones."""
    try:
        pending.future.result()
    except (CheckpointException, OSError) as error:
        raise OutputError(
            "the checkpoint cannot be written",
            path=pending.folder,
            received=_cause(error),
            remedy="make room and run the same command again: it goes on from the checkpoint before",
        ) from None
    if main:
        Path(str(pending.folder) + PARTIAL).rename(pending.folder)
        for old in complete(pending.folder.parents[1])[:-keep]:
            shutil.rmtree(old)


def complete(work: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path for path in (work / SHARED).glob("step-*") if path.suffix != PARTIAL)


def tidied(work: Path) -> int:
    """Steps that the latest whole checkpoint holds; those that a killed run left unfinished are removed.

    Nobody else may write there. An unfinished one would mix with the next of the same step.
    """
    for partial in (work / SHARED).glob(f"step-*{PARTIAL}"):
        shutil.rmtree(partial)
    return max((_step(folder) for folder in complete(work)), default=0)


def load(work: Path, mesh: DeviceMesh | None = None, group: dist.ProcessGroup | None = None) -> State:
    """The latest whole checkpoint, or the state of a run that has not begun.

    Tensors come sharded by rows over `mesh`, whatever number of ranks wrote them; whole without one.
    """
    folders = complete(work)
    if not folders:
        return State()
    reader = HuggingFaceStorageReader(str(folders[-1]))
    try:
        tensors = {
            name: _room(item.size, mesh)
            for name, item in reader.read_metadata().state_dict_metadata.items()
            if isinstance(item, TensorStorageMetadata)
        }
        dcp_load(tensors, storage_reader=reader, process_group=group, no_dist=mesh is None)
    except (CheckpointException, SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            "cannot be read",
            path=folders[-1],
            received=_cause(error),
            remedy="remove it to use the one before",
        ) from None
    return State(_step(folders[-1]), tensors)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _room(shape: torch.Size, mesh: DeviceMesh | None) -> torch.Tensor:
    return torch.zeros(shape) if mesh is None else zeros(shape, device_mesh=mesh, placements=[Shard(0)])


def _cause(error: BaseException) -> str:
    """The first failure that a rank reported."""
    if isinstance(error, CheckpointException):
        failures: Mapping[int, tuple[BaseException, object]] = error.failures
        return str(next(iter(failures.values()))[0])[:120]
    return str(error)[:120]
