"""Checkpoints of a distributed run that are spoiled, or of another run, are removed; an older one is used."""

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch._C._distributed_c10d import HashStore

from contextgraft.checkpoint import digest
from contextgraft.errors import ReadError
from contextgraft.training.engine import SingleProcessEngine
from contextgraft.training.parallel.checkpoints import (
    PARTIAL,
    RECORD,
    complete_checkpoints,
    finish_saving,
    remove_unusable,
    start_saving,
)
from contextgraft.training.parallel.engine import DistributedEngine
from contextgraft.training.parallel.options import ParallelOptions
from contextgraft.training.parallel.process_group import RankInfo
from contextgraft.training.reporting.metrics import write_metrics
from contextgraft.training.state import (
    CHECKPOINTS,
    IDENTITY_FILE,
    METRICS_FILE,
    STATE_FILE,
    SavedState,
    save_state,
)

SHARD = "shard-00001-model-00001-of-00001.safetensors"


def save(work: Path, step: int, loss: float = 0.5) -> None:
    """A complete checkpoint, as the main process leaves it."""
    write_metrics(work, [{"step": number + 1, "loss": loss} for number in range(step)])
    saved = SavedState(step, {"weight/w": torch.full((3,), float(step))})
    finish_saving(start_saving(saved, work, dist.new_group(backend="gloo")), main=True, keep=2)


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """A process group of one rank."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def work(alone: None, tmp_path: Path) -> Path:
    """The work directory of a run with checkpoints after steps 1 and 2."""
    work = tmp_path / "work"
    work.mkdir()
    (work / IDENTITY_FILE).write_text(json.dumps({"seed": 1}))
    save(work, 1)
    save(work, 2)
    return work


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def flip(path: Path, index: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[index] ^= 1
    path.write_bytes(raw)


SPOILS: dict[str, Callable[[Path], object]] = {
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "empty": lambda path: path.write_bytes(b""),
    "header": lambda path: flip(path, 9),
    "data": lambda path: flip(path, -6),
    "folder": folder_instead,
}


def test_a_checkpoint_is_read_again(work: Path) -> None:
    write_metrics(work, [{"step": step + 1, "loss": 0.5} for step in range(3)])  # killed after that
    saved = SingleProcessEngine().load(work)
    assert saved.step == 2
    assert saved.tensors["weight/w"].tolist() == [2, 2, 2]


@pytest.mark.parametrize("name", [SHARD, RECORD])
@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_the_one_before_is_used(work: Path, spoil: Callable[[Path], object], name: str) -> None:
    spoil(work / CHECKPOINTS / "step-00000002" / name)
    saved = SingleProcessEngine().load(work)
    assert saved.step == 1
    assert saved.tensors["weight/w"].tolist() == [1, 1, 1]
    assert [path.name for path in complete_checkpoints(work)] == ["step-00000001"]


def test_a_missing_or_foreign_file_of_ranks_is_noticed(work: Path) -> None:
    newest = work / CHECKPOINTS / "step-00000002"
    save_file({"weight/w": torch.zeros(3)}, newest / "shard-00002-model-00001-of-00001.safetensors")
    assert remove_unusable(work) == 1
    (work / CHECKPOINTS / "step-00000001" / SHARD).unlink()
    assert remove_unusable(work) == 0


@pytest.mark.parametrize("name", [IDENTITY_FILE, METRICS_FILE])
def test_those_of_another_run_are_not_believed(work: Path, name: str) -> None:
    if name == IDENTITY_FILE:
        (work / name).write_text(json.dumps({"seed": 2}))
    else:
        write_metrics(work, [{"step": step + 1, "loss": 0.25} for step in range(2)])
    assert SingleProcessEngine().load(work).step == 0
    assert not list((work / CHECKPOINTS).iterdir())


def test_those_of_an_earlier_version_have_no_record(work: Path) -> None:
    (work / CHECKPOINTS / "step-00000002" / RECORD).unlink()
    assert remove_unusable(work) == 2


def test_what_is_not_a_checkpoint_is_removed(work: Path) -> None:
    (work / CHECKPOINTS / "step-00000009").write_text("a file")
    (work / CHECKPOINTS / "step-0000000x").mkdir()
    (work / CHECKPOINTS / f"step-00000009{PARTIAL}").write_text("a file")
    (work / CHECKPOINTS / "step-00000007").symlink_to("step-00000002")
    assert remove_unusable(work) == 2
    assert len(list((work / CHECKPOINTS).iterdir())) == 2


def test_a_checkpoint_that_cannot_be_read_stays(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(digest, "bytes_digest", fail)
    with pytest.raises(ReadError, match="cannot be read; received Input/output error"):
        remove_unusable(work)
    assert len(complete_checkpoints(work)) == 2


def test_a_spoiled_state_of_one_process_does_not_hide_a_checkpoint(work: Path) -> None:
    """The state is of a later step: its metadata are read first, its bytes only then."""
    write_metrics(work, [{"step": step + 1, "loss": 0.5} for step in range(3)])
    save_state(SavedState(3, {"weight/w": torch.full((3,), 3.0)}), work)
    config = {"num_attention_heads": 4}
    engine = DistributedEngine(RankInfo(0, 1, 0, 1), torch.device("cpu"), ParallelOptions(), config)
    assert engine.load(work).step == 3
    flip(work / STATE_FILE, -6)
    assert engine.load(work).step == 2
    assert SingleProcessEngine().load(work).step == 2
