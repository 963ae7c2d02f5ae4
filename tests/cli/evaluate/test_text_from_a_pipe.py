"""What an evaluation reads is read once: a text may be a pipe."""

import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from contextgraft.cli.commands.evaluate import command
from contextgraft.errors import InputError
from contextgraft.evaluation import run
from contextgraft.evaluation.spec import EvalSpec

TEXT = "it was a dark night . " * 20


def test_the_text_of_a_pipe_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs: list[EvalSpec] = []

    def stop(_: Any, spec: EvalSpec, *__: Any, **___: Any) -> None:
        specs.append(spec)
        raise InputError("nothing is evaluated here")

    monkeypatch.setattr(run, "evaluate_models", stop)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    reading, writing = os.pipe()
    os.write(writing, TEXT.encode())
    os.close(writing)
    words = [str(tmp_path / "model"), "--suite", "perplexity", "--lengths", "32", "--allow-refused"]
    words += ["--text", f"/dev/fd/{reading}", "--out", str(tmp_path / "rows.parquet")]
    done = CliRunner().invoke(command, words)
    os.close(reading)
    assert "nothing is evaluated here" in str(done.exception)
    (measurement,) = specs[0].measurements
    assert measurement.source.text.content.split() == TEXT.split()  # type: ignore[attr-defined]
