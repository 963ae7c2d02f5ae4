"""Checkpoints of a distributed run that are spoiled, or of another run, are removed; an older one is used."""

import json
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from contextgraft.training.engine import SingleProcessEngine
from contextgraft.training.parallel.checkpoints import (
    PARTIAL,
    RECORD,
    PendingCheckpoint,
    complete_checkpoints,
    finish_saving,
    remove_unusable,
)
from contextgraft.training.reporting.metrics import write_metrics
from contextgraft.training.state import CHECKPOINTS, IDENTITY_FILE, METRICS_FILE

SHARD = "shard-00001-model-00001-of-00001.safetensors"


def save(work: Path, step: int, loss: float = 0.5) -> None:
    """A complete checkpoint, as the main process leaves it."""
    folder = work / CHECKPOINTS / f"step-{step:08d}"
    partial = Path(f"{folder}{PARTIAL}")
    partial.mkdir(parents=True)
    save_file({"weight/w": torch.full((3,), float(step))}, partial / SHARD)
    write_metrics(work, [{"step": number + 1, "loss": loss} for number in range(step)])
    written: Future[object] = Future()
    written.set_result(None)
    finish_saving(PendingCheckpoint(folder, written), main=True, keep=2)


@pytest.fixture
def work(tmp_path: Path) -> Path:
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


def spoil_header(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:9] + bytes([raw[9] ^ 1]) + raw[10:])


SPOILS: dict[str, Callable[[Path], object]] = {
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "empty": lambda path: path.write_bytes(b""),
    "header": spoil_header,
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
