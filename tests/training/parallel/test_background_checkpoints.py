"""Checkpoints that are written while training goes on: what they contain, and what a kill leaves."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch._C._distributed_c10d import HashStore
from torch.distributed.checkpoint import staging

from contextgraft.training.parallel.checkpoints import (
    PARTIAL,
    PendingCheckpoint,
    RecordingWriter,
    complete_checkpoints,
    finish_saving,
    load_checkpoint,
    pinned_stager,
    remove_unusable,
    start_saving,
)
from contextgraft.training.reporting.metrics import write_metrics
from contextgraft.training.state import CHECKPOINTS, SavedState

NAME = "weight/w"


@pytest.fixture
def group() -> Iterator[dist.ProcessGroup]:
    """The group of one process."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield dist.new_group(backend="gloo")
    dist.destroy_process_group()


def start(
    work: Path,
    step: int,
    weight: torch.Tensor,
    group: dist.ProcessGroup,
    stager: staging.AsyncStager | None = None,
) -> PendingCheckpoint:
    work.mkdir(exist_ok=True)
    write_metrics(work, [{"step": number + 1, "loss": 0.5} for number in range(step)])
    return start_saving(SavedState(step, {NAME: weight}), work, group, stager)


def test_memory_that_is_kept_for_the_next_checkpoint_has_its_tensors(
    tmp_path: Path, group: dist.ProcessGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stager of GPUs, with memory that is not pinned: three checkpoints of a tensor have one place."""
    made: list[staging.StagingOptions] = []
    plain = staging.StagingOptions(False, False, False, False)
    stager = staging.DefaultStager(plain)

    def make(options: staging.StagingOptions) -> staging.DefaultStager:
        made.append(options)
        return stager

    monkeypatch.setattr(staging, "DefaultStager", make)
    assert pinned_stager(torch.device("cpu")) is None
    assert pinned_stager(torch.device("cuda", 0)) is stager
    assert [(each.use_pinned_memory, each.use_non_blocking_copy) for each in made] == [(True, True)]
    places: list[int] = []
    stage = stager.stage

    def watched(state: Any, **options: Any) -> Any:
        copied = stage(state, **options)
        assert isinstance(copied, dict)
        places.append(copied[NAME].data_ptr())
        return copied

    monkeypatch.setattr(stager, "stage", watched)
    weight = torch.zeros(1000)
    for step in (1, 2, 3):
        weight.fill_(step)
        finish_saving(start(tmp_path, step, weight, group, stager), main=True, keep=3)
    assert len(places) == 3
    assert len(set(places)) == 1
    assert weight.data_ptr() not in places
    for step, folder in enumerate(complete_checkpoints(tmp_path), 1):
        (file,) = folder.glob("*.safetensors")
        assert load_file(file)[NAME].tolist() == [float(step)] * 1000


def test_weights_that_change_while_they_are_written_are_written_as_they_were(
    tmp_path: Path, group: dist.ProcessGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a checkpoint that was waited for; a kill in the middle leaves the one before."""
    work, waited = tmp_path / "work", tmp_path / "waited"
    finish_saving(start(work, 1, torch.ones(1000), group), main=True, keep=2)
    finish_saving(start(waited, 2, torch.arange(1000.0), group), main=True, keep=2)

    writing, go_on, write_data = Event(), Event(), RecordingWriter.write_data

    def write_when_told(self: RecordingWriter, *arguments: Any) -> Any:
        writing.set()
        go_on.wait()
        return write_data(self, *arguments)

    monkeypatch.setattr(RecordingWriter, "write_data", write_when_told)
    weight = torch.arange(1000.0)
    pending = start(work, 2, weight, group)
    weight.zero_()  # the next step
    writing.wait()
    killed = shutil.copytree(work, tmp_path / "killed")
    go_on.set()
    finish_saving(pending, main=True, keep=2)

    mine, theirs = (
        load_file(next(complete_checkpoints(each)[-1].glob("*.safetensors"))) for each in (work, waited)
    )
    assert mine[NAME].numpy().tobytes() == theirs[NAME].numpy().tobytes()
    assert torch.equal(mine[NAME], torch.arange(1000.0))
    assert [path.name for path in complete_checkpoints(work)] == ["step-00000001", "step-00000002"]

    partial = killed / CHECKPOINTS / f"step-00000002{PARTIAL}"
    partial.mkdir(exist_ok=True)
    (partial / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"half of it")
    assert remove_unusable(killed) == 1
    saved = load_checkpoint(killed)
    assert (saved.step, saved.tensors[NAME].tolist()) == (1, [1.0] * 1000)
    assert not partial.exists()
