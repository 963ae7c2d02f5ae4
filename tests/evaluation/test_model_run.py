"""Runs with measures: kept one by one, the reference first, and never made up where a model is elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from contextgraft.errors import InputError
from contextgraft.evaluation import model_run
from contextgraft.evaluation.backends.base import ChunkedBackend, GenerationRequest
from contextgraft.evaluation.backends.registry import BACKENDS, BackendConfig
from contextgraft.evaluation.run import evaluate_models
from contextgraft.evaluation.spec import EvalSpec
from contextgraft.evaluation.suites.divergence import DivergenceMeasurement
from contextgraft.evaluation.suites.needle_grid import NeedleGrid
from contextgraft.evaluation.suites.perplexity import PerplexityMeasurement
from contextgraft.evaluation.suites.text_prompts import Text, TextWindows

MakeModel = Callable[..., Path]
Models = list[tuple[str | None, Path]]
FILLER = "it was a dark night and nobody came"


class Notes:
    """A progress reporter that remembers, and stops the run when a model begins."""

    def __init__(self, stop_at: str | None = None) -> None:
        self.begun: list[tuple[str, dict[str, int]]] = []
        self.found: list[str] = []
        self.count = 0
        self.stop_at = stop_at

    def model(self, label: str, units: Mapping[str, int], known: int) -> None:
        if label == self.stop_at:
            raise KeyboardInterrupt
        self.begun.append((label, dict(units)))

    def advance(self, count: int) -> None:
        self.count += count

    def prefilled(self, prompt: int, computed: int) -> None: ...

    def kept(self, label: str) -> None:
        self.found.append(label)


@pytest.fixture
def models(make_model: MakeModel) -> Models:
    return [(name, make_model(name, seed=seed)) for seed, name in enumerate(("one", "two", "three"))]


@pytest.fixture
def text() -> Text:
    return Text("filler", "a digest", " ".join([FILLER] * 60))


@pytest.fixture
def measures(text: Text) -> tuple[Any, ...]:
    return PerplexityMeasurement(TextWindows(text, 64, 2, 5), 64), DivergenceMeasurement(
        TextWindows(text, 32, 3, 5)
    )


@pytest.fixture
def spec(grid: NeedleGrid) -> EvalSpec:
    return EvalSpec((replace(grid, lengths=(40,), samples=1),), seed=7)


def divergences(table: pa.Table, label: str) -> list[float]:
    return [
        row["score"] for row in table.to_pylist() if row["model"] == label and row["suite"] == "divergence"
    ]


def test_rows_of_measures_follow_those_of_the_questions(
    models: Models, spec: EvalSpec, measures: tuple[Any, ...], tmp_path: Path
) -> None:
    notes = Notes()
    table = evaluate_models(
        models, replace(spec, measurements=measures), BackendConfig(), tmp_path / "s.parquet", notes
    )
    assert notes.begun[0] == ("one", {"needle": 3, "perplexity": 2, "divergence": 3})
    assert notes.count == 3 * 8
    suites = [row["suite"] for row in table.to_pylist() if row["model"] == "two"]
    assert suites == [*["needle"] * 3, *["perplexity"] * (len(suites) - 6), *["divergence"] * 3]
    assert divergences(table, "one") == [0.0] * 3
    assert min(divergences(table, "two")) > 0
    assert not list(tmp_path.glob(".*partial*"))


def test_two_runs_with_measures_give_the_same_bytes(
    models: Models, spec: EvalSpec, measures: tuple[Any, ...], tmp_path: Path
) -> None:
    for name in ("x", "y"):
        evaluate_models(
            models, replace(spec, measurements=measures), BackendConfig(), tmp_path / name, Notes()
        )
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_a_run_of_measures_alone_asks_nothing(
    models: Models, measures: tuple[Any, ...], tmp_path: Path
) -> None:
    table = evaluate_models(
        models, EvalSpec(measurements=measures, seed=7), BackendConfig(), tmp_path / "s.parquet", Notes()
    )
    assert set(table["suite"].to_pylist()) == {"perplexity", "divergence"}


def test_the_reference_is_the_one_that_is_named_and_comes_first(
    models: Models, spec: EvalSpec, measures: tuple[Any, ...], tmp_path: Path
) -> None:
    notes = Notes()
    out = tmp_path / "s.parquet"
    table = evaluate_models(
        models, replace(spec, measurements=measures), BackendConfig(), out, notes, reference="three"
    )
    assert [label for label, _ in notes.begun] == ["three", "one", "two"]
    assert table["model"].unique().to_pylist() == ["one", "two", "three"]
    assert divergences(table, "three") == [0.0] * 3
    assert min(divergences(table, "one")) > 0
    again = Notes()
    evaluate_models(models, replace(spec, measurements=measures), BackendConfig(), out, again)
    assert [label for label, _ in again.begun] == ["one", "two", "three"]
    with pytest.raises(InputError, match=r"no model has the label of --reference; .*received four"):
        evaluate_models(
            models, replace(spec, measurements=measures), BackendConfig(), out, Notes(), reference="four"
        )


def test_what_was_measured_before_a_stop_is_kept(
    models: Models, spec: EvalSpec, measures: tuple[Any, ...], tmp_path: Path
) -> None:
    out = tmp_path / "s.parquet"
    whole = evaluate_models(
        models, replace(spec, measurements=measures), BackendConfig(), tmp_path / "w.parquet", Notes()
    )
    with pytest.raises(KeyboardInterrupt):
        evaluate_models(models, replace(spec, measurements=measures), BackendConfig(), out, Notes("three"))
    notes = Notes()
    table = evaluate_models(models, replace(spec, measurements=measures), BackendConfig(), out, notes)
    assert notes.found == ["one", "two"]
    assert table.to_pylist() == whole.to_pylist()


def test_the_reference_is_measured_again_if_its_predictions_are_gone(
    models: Models, spec: EvalSpec, measures: tuple[Any, ...], tmp_path: Path
) -> None:
    out = tmp_path / "s.parquet"
    with pytest.raises(KeyboardInterrupt):
        evaluate_models(models, replace(spec, measurements=measures), BackendConfig(), out, Notes("two"))
    lost = list(tmp_path.glob(".*partial/reference-*"))
    assert lost
    for path in lost:
        path.unlink()
    notes = Notes()
    table = evaluate_models(models, replace(spec, measurements=measures), BackendConfig(), out, notes)
    assert notes.begun[0] == ("one", {"divergence": 3})
    assert min(divergences(table, "two")) > 0


def test_a_model_that_runs_elsewhere_is_not_measured(
    models: Models,
    spec: EvalSpec,
    measures: tuple[Any, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def constant(requests: Sequence[GenerationRequest]) -> list[str]:
        return ["nobody came"] * len(requests)

    monkeypatch.setitem(BACKENDS, "hf", lambda *_: ChunkedBackend(constant, 4))
    table = evaluate_models(
        models[:1], replace(spec, measurements=measures), BackendConfig(), tmp_path / "s.parquet", Notes()
    )
    rows = [row for row in table.to_pylist() if row["suite"] != "needle"]
    assert {(row["status"], row["reason"]) for row in rows} == {("skipped", model_run.NEEDS_LOCAL_WEIGHTS)}
    assert {row["score"] for row in rows} == {None}
