"""Weights & Biases and MLflow show the rows of --measures; their packages write, without a network."""

import importlib
import json
import sqlite3
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typing_extensions import override

from contextgraft.errors import InputError
from contextgraft.training.reporting.trackers import open as opening
from contextgraft.training.reporting.trackers.base import MetricTracker, TrackedRun
from contextgraft.training.trainer import TrainingOptions, train

from .conftest import Recorder, interrupt
from .parallel.conftest import COMMAND, finish, start_ranks

BLOCK = 32768  # of LevelDB's log format, which Weights & Biases writes
Rows = list[dict[str, Any]]


def run_twice(base: Path, config: Path, folder: Path, trackers: dict[str, str]) -> Rows:
    """A run of seven steps that is interrupted after the fourth and goes on; its rows of --measures."""
    options = TrainingOptions(checkpoint_seconds=0, measures=folder / "m.parquet", trackers=trackers)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 4, lambda: train(config, base, folder / "out", options))
    assert (folder / ".out.partial" / "trackers.json").exists()
    train(config, base, folder / "out", options)
    assert not (folder / "out" / "trackers.json").exists()
    rows: Rows = pq.read_table(folder / "m.parquet").to_pylist()
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def wandb_records(folder: Path) -> list[list[Any]]:
    """The records of each start, read by the format of the file."""
    protocol = importlib.import_module("wandb.proto.wandb_internal_pb2")
    starts = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        content, at, part, records = path.read_bytes(), 7, b"", []
        while at + 7 <= len(content):
            if BLOCK - at % BLOCK < 7:
                at += BLOCK - at % BLOCK
                continue
            _, size, kind = struct.unpack("<IHB", content[at : at + 7])
            part, at = part + content[at + 7 : at + 7 + size], at + 7 + size
            if kind in (1, 4):  # a whole record, or the last part of one
                records.append(protocol.Record.FromString(part))
                part = b""
        starts.append(records)
    return starts


def wandb_rows(records: list[Any]) -> Rows:
    history = [record.history.item for record in records if record.HasField("history")]
    rows = [{item.nested_key[0]: json.loads(item.value_json) for item in items} for items in history]
    return [{name: value for name, value in row.items() if name[0] != "_"} for row in rows]


@pytest.fixture
def wandb_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def mlflow_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("mlflow")
    pytest.importorskip("alembic")
    monkeypatch.chdir(tmp_path)  # artifacts of a database on disk are next to it
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    return tmp_path / "runs.db"


def test_weights_and_biases_has_every_row_in_one_run(
    base: Path, recipe_folder: Path, wandb_folder: Path
) -> None:
    rows = run_twice(base, recipe_folder / "recipe.yaml", wandb_folder, {"wandb": "long"})
    first, second = wandb_records(wandb_folder)
    assert wandb_rows(first) + wandb_rows(second) == rows
    runs = [next(record.run for record in start if record.HasField("run")) for start in (first, second)]
    assert {(run.project, run.display_name) for run in runs} == {("long", "tiny")}
    assert runs[0].run_id == runs[1].run_id
    settings = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert settings["theta"] == "progressive"
    assert [next(r.exit.exit_code for r in start if r.HasField("exit")) for start in (first, second)] == [
        1,
        0,
    ]


def test_mlflow_has_every_row_in_one_run(base: Path, recipe_folder: Path, mlflow_database: Path) -> None:
    folder = mlflow_database.parent
    rows = run_twice(base, recipe_folder / "recipe.yaml", folder, {"mlflow": "long"})
    with sqlite3.connect(mlflow_database) as database:
        assert database.execute("select name, status from runs").fetchall() == [("tiny", "FINISHED")]
        assert ("long",) in database.execute("select name from experiments").fetchall()
        stored: dict[int, dict[str, float]] = {}
        for step, key, value in database.execute("select step, key, value from metrics"):
            stored.setdefault(step, {})[key] = value
    assert [stored[step] for step in sorted(stored)] == [pytest.approx(row) for row in rows]


def test_two_processes_write_one_run(base: Path, recipe_folder: Path, wandb_folder: Path) -> None:
    files = ["--config", str(recipe_folder / "recipe.yaml"), "--base", str(base), "--wandb", "long"]
    finish(start_ranks([*COMMAND, *files, "--out", str(wandb_folder / "out")], 2))
    (records,) = wandb_records(wandb_folder)
    assert [row["step"] for row in wandb_rows(records)] == list(range(1, 8))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorboard", "TensorBoard is not installed; pip install 'contextgraft\\[tensorboard\\]'"),
        ("wandb", "Weights & Biases is not installed; pip install wandb"),
        ("mlflow", "MLflow is not installed; pip install mlflow"),
    ],
)
def test_a_package_that_is_not_installed_is_one_line(
    base: Path, recipe_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda _: None)
    config, out, options = recipe_folder / "recipe.yaml", recipe_folder / "out", TrainingOptions()
    with pytest.raises(InputError, match=message):
        train(config, base, out, replace(options, trackers={name: "board"}))
    assert not out.exists()


class Failing(MetricTracker):
    """Refuses rows, and says how it ended."""

    run_id = None
    ends: list[bool]

    def __init__(self, where: str, run: TrackedRun) -> None:
        if where == "nowhere":
            raise OSError("no server\nat all")
        self.ends = []
        Failing.last = self

    last: "Failing"

    @override
    def write(self, row: Mapping[str, Any]) -> None:
        raise ConnectionError("the server is gone")

    @override
    def flush(self) -> None:
        pass

    @override
    def close(self, *, finished: bool) -> None:
        self.ends.append(finished)


def test_a_tracker_that_fails_meanwhile_does_not_end_the_run(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = opening.TrackerKind("A tracker", "it", Failing)
    monkeypatch.setattr(opening, "KINDS", {"json": kind})
    lines: list[str] = []
    options = TrainingOptions(trackers={"json": "here"})
    train(recipe_folder / "recipe.yaml", base, tmp_path / "out", options, reporter=Recorder(lines))
    failed = [line for line in lines if "the server is gone" in line]
    assert len(failed) == 7
    assert failed[0].startswith("json: A tracker does not take metrics")
    assert Failing.last.ends == [True]
    options = TrainingOptions(trackers={"json": "nowhere"})
    with pytest.raises(InputError, match=r"A tracker cannot be used.*no server") as caught:
        train(recipe_folder / "recipe.yaml", base, tmp_path / "other", options)
    assert "\n" not in str(caught.value)
