"""Runs with measures: kept one by one, the reference first, and never made up where a model is elsewhere."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from contextgraft.errors import InputError
from contextgraft.evaluation import model_run
from contextgraft.evaluation.backends.base import Portions
from contextgraft.evaluation.backends.registry import BACKENDS, Engine
from contextgraft.evaluation.run import evaluate_models
from contextgraft.evaluation.suites.divergence import DivergenceMeasure
from contextgraft.evaluation.suites.perplexity import PerplexityMeasure
from contextgraft.evaluation.suites.spec import Exam, NeedleGrid
from contextgraft.evaluation.suites.text_prompts import Text, Windows

MakeModel = Callable[..., Path]
Models = list[tuple[str | None, Path]]
FILLER = "it was a dark night and nobody came"


class Notes:
    """A watcher that remembers, and stops the run when a model begins."""

    def __init__(self, stop_at: str | None = None) -> None:
        self.begun: list[tuple[str, dict[str, int]]] = []
        self.found: list[str] = []
        self.count = 0
        self.stop_at = stop_at

    def model(self, label: str, units: Mapping[str, int], known: int) -> None:
        if label == self.stop_at:
            raise KeyboardInterrupt
        self.begun.append((label, dict(units)))

    def asked(self, count: int) -> None:
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
    return PerplexityMeasure(Windows(text, 64, 2, 5), 64), DivergenceMeasure(Windows(text, 32, 3, 5))


@pytest.fixture
def exam(grid: NeedleGrid) -> Exam:
    return Exam((replace(grid, lengths=(40,), samples=1),), seed=7)


def divergences(table: pa.Table, label: str) -> list[float]:
    return [
        row["score"] for row in table.to_pylist() if row["model"] == label and row["suite"] == "divergence"
    ]


def test_rows_of_measures_follow_those_of_the_questions(
    models: Models, exam: Exam, measures: tuple[Any, ...], tmp_path: Path
) -> None:
    notes = Notes()
    table = evaluate_models(models, exam, Engine(), tmp_path / "s.parquet", notes, measures=measures)
    assert notes.begun[0] == ("one", {"needle": 3, "perplexity": 2, "divergence": 3})
    assert notes.count == 3 * 8
    suites = [row["suite"] for row in table.to_pylist() if row["model"] == "two"]
    assert suites == [*["needle"] * 3, *["perplexity"] * (len(suites) - 6), *["divergence"] * 3]
    assert divergences(table, "one") == [0.0] * 3
    assert min(divergences(table, "two")) > 0
    assert not list(tmp_path.glob(".*partial*"))


def test_two_runs_with_measures_give_the_same_bytes(
    models: Models, exam: Exam, measures: tuple[Any, ...], tmp_path: Path
) -> None:
    for name in ("x", "y"):
        evaluate_models(models, exam, Engine(), tmp_path / name, Notes(), measures=measures)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_a_run_of_measures_alone_asks_nothing(
    models: Models, measures: tuple[Any, ...], tmp_path: Path
) -> None:
    table = evaluate_models(
        models, Exam(seed=7), Engine(), tmp_path / "s.parquet", Notes(), measures=measures
    )
    assert set(table["suite"].to_pylist()) == {"perplexity", "divergence"}


def test_the_reference_is_the_one_that_is_named_and_comes_first(
    models: Models, exam: Exam, measures: tuple[Any, ...], tmp_path: Path
) -> None:
    notes = Notes()
    out = tmp_path / "s.parquet"
    table = evaluate_models(models, exam, Engine(), out, notes, measures=measures, reference="three")
    assert [label for label, _ in notes.begun] == ["three", "one", "two"]
    assert table["model"].unique().to_pylist() == ["one", "two", "three"]
    assert divergences(table, "three") == [0.0] * 3
    assert min(divergences(table, "one")) > 0
    again = Notes()
    evaluate_models(models, exam, Engine(), out, again, measures=measures)
    assert [label for label, _ in again.begun] == ["one", "two", "three"]
    with pytest.raises(InputError, match=r"no model is labelled as the reference; .*received four"):
        evaluate_models(models, exam, Engine(), out, Notes(), measures=measures, reference="four")


def test_what_was_measured_before_a_stop_is_kept(
    models: Models, exam: Exam, measures: tuple[Any, ...], tmp_path: Path
) -> None:
    out = tmp_path / "s.parquet"
    whole = evaluate_models(models, exam, Engine(), tmp_path / "w.parquet", Notes(), measures=measures)
    with pytest.raises(KeyboardInterrupt):
        evaluate_models(models, exam, Engine(), out, Notes("three"), measures=measures)
    notes = Notes()
    table = evaluate_models(models, exam, Engine(), out, notes, measures=measures)
    assert notes.found == ["one", "two"]
    assert table.to_pylist() == whole.to_pylist()


def test_the_reference_is_measured_again_if_its_predictions_are_gone(
    models: Models, exam: Exam, measures: tuple[Any, ...], tmp_path: Path
) -> None:
    out = tmp_path / "s.parquet"
    with pytest.raises(KeyboardInterrupt):
        evaluate_models(models, exam, Engine(), out, Notes("two"), measures=measures)
    lost = list(tmp_path.glob(".*partial/reference-*"))
    assert lost
    for path in lost:
        path.unlink()
    notes = Notes()
    table = evaluate_models(models, exam, Engine(), out, notes, measures=measures)
    assert notes.begun[0] == ("one", {"divergence": 3})
    assert min(divergences(table, "two")) > 0


def test_a_model_that_runs_elsewhere_is_not_measured(
    models: Models,
    exam: Exam,
    measures: tuple[Any, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Deaf:
        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
            return ["nobody came"] * len(requests)

    monkeypatch.setitem(BACKENDS, "hf", lambda *_: Portions(Deaf(), 4))
    table = evaluate_models(models[:1], exam, Engine(), tmp_path / "s.parquet", Notes(), measures=measures)
    rows = [row for row in table.to_pylist() if row["suite"] != "needle"]
    assert {(row["status"], row["reason"]) for row in rows} == {("skipped", model_run.ELSEWHERE)}
    assert {row["score"] for row in rows} == {None}
