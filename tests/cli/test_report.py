"""The command: verdicts on stdout, one line and exit 2 on bad input, nothing left behind."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from contextgraft.cli.commands.report import command
from contextgraft.cli.main import main
from contextgraft.formats.samples import SCHEMA
from contextgraft.report.build import STEPS, build

COMMAND = str(Path(sys.executable).parent / "contextgraft")


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Twenty synthetic answers of one model, 15 of them right."""
    common = {
        "model": "lonely",
        "model_digest": "d",
        "suite": "needle",
        "task": "n",
        "length": 128,
        "prompt_tokens": 120,
        "depth": 50.0,
        "distractors": 0,
        "seed": 1,
        "status": "ok",
    }
    empty = dict.fromkeys(SCHEMA.names)
    rows = [{**empty, **common, "sample_index": index, "score": float(index < 15)} for index in range(20)]
    path = tmp_path / "samples" / "a.parquet"
    path.parent.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_every_step_of_a_report_is_counted(samples: Path) -> None:
    steps: list[int] = []
    build([samples.parent], [], "t", None, advance=steps.append)
    assert steps == [1] * STEPS


def test_a_page_summary_and_charts(samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    done = CliRunner().invoke(command, [str(samples.parent), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.stdout == "No graft is among these samples: scores are shown, nothing is judged.\n"
    first, last = done.stderr.splitlines()
    assert first == "report: samples of 1 file(s) were read"
    assert "files in" in last
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    chart = "charts/heatmap_other_models_lonely"
    assert found == {
        "index.html",
        "summary.json",
        f"{chart}.svg",
        f"{chart}.png",
        "plots/heatmap.csv",
        "plots/heatmap.json",
        f"samples/{samples.name}",
        "copies.json",
    }


def test_json_is_the_summary(samples: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(samples), "--out", str(tmp_path / "report"), "--json"])
    assert json.loads(done.stdout) == json.loads((tmp_path / "report" / "summary.json").read_text())
    assert json.loads(done.stdout)["others"]["lonely"]["needle_longest"]["score"] == 0.75


BAD_INPUT = {
    "no such folder": ["nowhere", "--out", "report"],
    "empty folder": ["empty", "--out", "report"],
    "text file": ["text.parquet", "--out", "report"],
    "no adapter": ["samples", "--out", "report", "--adapter", "empty"],
    "foreign output": ["samples", "--out", "mine"],
}


@pytest.fixture
def inputs(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of samples and of things that are not what the command expects, as working directory."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("no parquet")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_nothing(
    kind: str, inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(inputs.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["contextgraft", "report", *BAD_INPUT[kind]])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("contextgraft: error: ")
    assert sorted(inputs.rglob("*")) == before


def test_the_installed_command_does_the_same(inputs: Path) -> None:
    arguments = [COMMAND, "report", *BAD_INPUT["no such folder"]]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("contextgraft: error: nowhere: no such file or folder")
    assert not (inputs / "report").exists()
