"""What depends on the clock is stored next to the model, not in it."""

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from contextgraft.cli.commands.train import command
from contextgraft.errors import OutputError
from contextgraft.training.data.batches import BatchSampler, TokenBatch
from contextgraft.training.engine import SingleProcessEngine
from contextgraft.training.reporting.metrics import SCHEMA
from contextgraft.training.reporting.trackers.tensorboard import SCALARS
from contextgraft.training.reporting.utilisation import ModelFlops
from contextgraft.training.schedule import TrainingStep
from contextgraft.training.trainer import TrainingOptions, train

from .conftest import Recorder, write_recipe
from .parallel.conftest import COMMAND, finish, start_ranks


def interrupted(
    base: Path,
    config: Path,
    out: Path,
    measures: Path,
    patch: pytest.MonkeyPatch,
    *,
    trackers: dict[str, str] | None = None,
) -> None:
    genuine = BatchSampler.batch

    def batch(self: BatchSampler, step: TrainingStep) -> TokenBatch:
        if step.number == 4:
            raise KeyboardInterrupt
        return genuine(self, step)

    with patch.context() as context:
        context.setattr(BatchSampler, "batch", batch)
        with pytest.raises(KeyboardInterrupt):
            train(
                config,
                base,
                out,
                TrainingOptions(checkpoint_seconds=0, measures=measures, trackers=trackers or {}),
            )


def test_a_row_a_step_goes_on_after_an_interruption(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, measures = recipe_folder / "recipe.yaml", tmp_path / "measures.parquet"
    interrupted(base, config, tmp_path / "out", measures, monkeypatch)
    assert pq.read_table(measures).num_rows == 4
    lines: list[str] = []
    last = train(config, base, tmp_path / "out", TrainingOptions(measures=measures), reporter=Recorder(lines))
    table = pq.read_table(measures)
    assert table.schema.equals(SCHEMA)
    rows: list[dict[str, Any]] = table.to_pylist()
    assert [row["step"] for row in rows] == list(range(1, 8))
    assert {key: rows[-1][key] for key in last} == last
    assert sum(row["tokens"] for row in rows) == 2 * 64 + 3 * 128 + 2 * 32
    assert all(row["gradient_norm"] > 0 and row["seconds"] > 0 and row["peak_memory"] > 2**20 for row in rows)
    assert {row["ring_bytes_inside"] for row in rows} == {0}
    assert "gradient" in lines[-1]
    assert "GiB" in lines[-1]
    assert not (tmp_path / "out" / "measures.parquet").exists()


def test_tensorboard_shows_the_same(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, measures, events = (
        recipe_folder / "recipe.yaml",
        tmp_path / "measures.parquet",
        tmp_path / "board",
    )
    trackers = {"tensorboard": str(events)}
    interrupted(base, config, tmp_path / "out", measures, monkeypatch, trackers=trackers)
    flops = ModelFlops(lambda length: 1000 * length, peak=1e9)
    train(config, base, tmp_path / "out", TrainingOptions(measures=measures, trackers=trackers, flops=flops))
    shown = EventAccumulator(str(events))
    shown.Reload()
    rows: list[dict[str, Any]] = pq.read_table(measures).to_pylist()
    for name, tag in SCALARS.items():
        points = [(row["step"], row[name]) for row in rows if row[name] is not None]
        found = [(point.step, point.value) for point in shown.Scalars(tag)] if points else []
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in points]
    assert [row["mfu"] is None for row in rows] == 4 * [True] + 3 * [False]


def test_another_file_is_not_written_over(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, measures = recipe_folder / "recipe.yaml", tmp_path / "measures.parquet"
    interrupted(base, config, tmp_path / "out", measures, monkeypatch)
    pq.write_table(pa.table({"mine": [1]}), measures)
    with pytest.raises(OutputError, match="received mine; remove it or name another file"):
        train(config, base, tmp_path / "out", TrainingOptions(measures=measures))
    measures.write_bytes(b"torn")
    with pytest.raises(OutputError, match="is not a table of step metrics"):
        train(config, base, tmp_path / "out", TrainingOptions(measures=measures))


def test_bytes_of_the_ring_are_those_of_the_plan(sharded: Path, recipe_folder: Path, tmp_path: Path) -> None:
    """2 layers x 2 (k, v) x 1 KV head x 8 numbers x 4 bytes, half a sequence to the other, three times."""
    measures = tmp_path / "measures.parquet"
    files = ["--config", str(recipe_folder / "recipe.yaml"), "--base", str(sharded), "--measures"]
    options = ["--ranks-per-node", "1", "--device-flops", "1e9", "--out", str(tmp_path / "out")]
    finish(start_ranks([*COMMAND, *files, str(measures), *options], 2))
    for row in pq.read_table(measures).to_pylist():
        assert row["ring_bytes_inside"] == 0
        assert row["ring_bytes_between"] == row["tokens"] * 2 * 2 * 8 * 4 * 3
        assert row["mfu"] * row["seconds"] * 2 * 1e9 == pytest.approx(operations(sharded, row))


def operations(base: Path, row: dict[str, Any]) -> int:
    """Of one step, by hand: 6 P T + 6 layers d T^2 for each sequence, 2 layers of 2 heads of 8."""
    files = [load_file(path) for path in base.glob("*.safetensors")]
    parameters = sum(tensor.numel() for tensors in files for tensor in tensors.values())
    return int(row["tokens"] * 6 * (parameters + 2 * 16 * row["length"]))


def test_mfu_is_that_of_the_peak_that_is_given(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    config, measures = write_recipe(recipe_folder, activation_checkpointing=True), tmp_path / "m.parquet"
    files = ["--config", str(config), "--base", str(base), "--out", str(tmp_path / "out")]
    words = [*files, "--measures", str(measures), "--device-flops", "2e9", "--device", "cpu"]
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    rows = pq.read_table(measures).to_pylist()
    assert len(rows) == 7
    for row in rows:
        assert row["mfu"] * row["seconds"] * 2e9 == pytest.approx(operations(base, row))
    assert f"MFU {rows[-1]['mfu']:.1%}" in result.stderr


def test_a_processor_has_no_mfu(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    measures = tmp_path / "m.parquet"
    files = ["--config", str(recipe_folder / "recipe.yaml"), "--base", str(base), "--device", "cpu"]
    words = [*files, "--out", str(tmp_path / "out"), "--measures", str(measures)]
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    assert {row["mfu"] for row in pq.read_table(measures).to_pylist()} == {None}
    assert "MFU" not in result.stderr


def test_rows_of_an_earlier_version_are_continued(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, measures = recipe_folder / "recipe.yaml", tmp_path / "measures.parquet"
    interrupted(base, config, tmp_path / "out", measures, monkeypatch)
    pq.write_table(pq.read_table(measures).drop(["mfu"]), measures)
    train(config, base, tmp_path / "out", TrainingOptions(measures=measures))
    assert pq.read_table(measures).schema.equals(SCHEMA)
    assert pq.read_table(measures)["step"].to_pylist() == list(range(1, 8))


def test_the_time_in_which_a_model_is_built_is_not_a_steps(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures, now = tmp_path / "measures.parquet", iter(range(10**6))
    genuine = SingleProcessEngine.build

    def slow(self: SingleProcessEngine, *arguments: Any) -> Any:
        for _ in range(1000):
            next(now)
        return genuine(self, *arguments)

    monkeypatch.setattr(SingleProcessEngine, "build", slow)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    train(recipe_folder / "recipe.yaml", base, tmp_path / "out", TrainingOptions(measures=measures))
    assert max(pq.read_table(measures)["seconds"].to_pylist()) < 100
