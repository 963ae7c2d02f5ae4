"""Two runs give the same rows: separate processes, other batches and threads, a model of the demo world."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contextgraft.sources.fetch import fetch

from ..command_server import command_server

DEMO = Path(__file__).resolve().parents[2] / "config/demo"
# Within the 128 positions style was trained on and beyond, so that it is right here and wrong there.
SUITES = ["--suite", "needle", "--format", DEMO / "needle_style.yaml", "--lengths", "64,600"]
SUITES += ["--depths", "0,50,100", "--samples", "3", "--distractors", "2", "--seed", "7"]
SUITES += ["--suite", "skill", "--skill", DEMO / "skill_style.jsonl", "--skill-samples", "12"]
WAYS: Mapping[str, list[str]] = {
    "first": ["--batch-size", "64", "--threads", "1"],
    "again": ["--batch-size", "64", "--threads", "1"],
    "other": ["--batch-size", "2", "--threads", "2"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A table of each way, every one written by a process of its own, in a folder of its own."""
    folder = tmp_path_factory.mktemp("determinism")
    fetch("demo:style", folder / "style")
    outs = {way: folder / way / "samples.parquet" for way in WAYS}
    runs: dict[str, subprocess.Popen[str]] = {}
    for way, options in WAYS.items():
        outs[way].parent.mkdir()
        words = ["evaluate", folder / "style", *SUITES, *options, "--out", outs[way]]
        runs[way] = subprocess.Popen(
            [command_server("contextgraft").command, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    for way, run in runs.items():
        said, _ = run.communicate()
        assert run.returncode == 0, f"{way}: {said}"
    return outs


def test_the_same_settings_give_the_same_bytes(files: Mapping[str, Path]) -> None:
    assert files["first"].read_bytes() == files["again"].read_bytes()


def test_other_batches_and_threads_give_the_same_rows(files: Mapping[str, Path]) -> None:
    assert pq.read_table(files["other"]).equals(pq.read_table(files["first"]))


def test_the_comparison_means_something(files: Mapping[str, Path]) -> None:
    table: pa.Table = pq.read_table(files["first"])
    assert table.num_rows == 2 * 3 * 3 + 12
    assert set(table.column("status").to_pylist()) == {"ok"}
    scores = table.column("score").to_pylist()
    assert 0 < sum(scores) < len(scores)
    assert len(set(table.column("output").to_pylist())) > 10
