"""Files of an unfinished run that a loss of power, or someone, left in any state: none is believed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from contextgraft.errors import OutputError
from contextgraft.training.data.packing import PackedSequences, is_packed, write_shards
from contextgraft.training.reporting.metrics import read_metrics, write_metrics
from contextgraft.training.state import (
    IDENTITY_FILE,
    METRICS_FILE,
    STATE_FILE,
    SavedState,
    load_state,
    save_state,
)

STEPS = 2


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The work directory of a run of seed 1 after two steps."""
    return run(tmp_path / "work", seed=1)


def run(work: Path, seed: int, loss: float = 0.5) -> Path:
    work.mkdir()
    (work / IDENTITY_FILE).write_text(json.dumps({"seed": seed}))
    write_metrics(work, [{"step": step + 1, "loss": loss} for step in range(STEPS)])
    save_state(SavedState(STEPS, {"weight/w": torch.ones(3)}), work)
    return work


def test_a_state_is_read_again(work: Path) -> None:
    write_metrics(work, [{"step": step + 1, "loss": 0.5} for step in range(STEPS + 1)])  # killed after that
    assert load_state(work).step == STEPS


@pytest.mark.parametrize("name", [STATE_FILE, METRICS_FILE, IDENTITY_FILE])
def test_a_file_of_another_run_is_not_believed(work: Path, tmp_path: Path, name: str) -> None:
    other = run(tmp_path / "other", seed=2, loss=0.25)
    shutil.copy(other / name, work / name)
    assert load_state(work) == SavedState()


def test_a_state_of_an_earlier_version_names_no_run(work: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(work / STATE_FILE, framework="pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "run"}
    save_file(load_file(work / STATE_FILE), work / STATE_FILE, metadata)
    assert load_state(work).step == STEPS


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


SPOILS: dict[str, Callable[[Path], object]] = {
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "deep": lambda path: path.write_bytes(b"[" * 100_000),
    "no object": lambda path: path.write_bytes(b"1\n2\n"),
    "folder": folder_instead,
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_spoiled_files_begin_anew(work: Path, spoil: Callable[[Path], object]) -> None:
    spoil(work / METRICS_FILE)
    assert read_metrics(work, STEPS) is None
    assert load_state(work) == SavedState()
    spoil(work / STATE_FILE)
    assert load_state(work) == SavedState()


def packed(folder: Path) -> Path:
    folder.mkdir()
    write_shards(folder, iter([([1, 2, 3, 4], [0])] * 50), 4)
    return folder


PACKED_SPOILS: dict[str, Callable[[Path], object]] = SPOILS | {
    "another table": lambda path: pq.write_table(pa.table({"x": [1]}), path),
}


@pytest.mark.parametrize("spoil", PACKED_SPOILS.values(), ids=PACKED_SPOILS)
def test_spoiled_packed_sequences_are_packed_again(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    folder = packed(tmp_path / "p")
    assert is_packed(folder)
    spoil(folder / "00000.parquet")
    assert not is_packed(folder)
    assert not os.path.lexists(folder)


def test_a_spoiled_page_is_one_line_and_packed_again_by_the_next_run(tmp_path: Path) -> None:
    folder = packed(tmp_path / "p")
    path = folder / "00000.parquet"
    raw = path.read_bytes()
    path.write_bytes(raw[:60] + bytes([raw[60] ^ 1]) + raw[61:])
    assert is_packed(folder)  # its footer is whole
    with pytest.raises(OutputError, match=r"spoiled; received .*; run the same command again"):
        PackedSequences(folder, 0).row(0)
    assert not folder.exists()
