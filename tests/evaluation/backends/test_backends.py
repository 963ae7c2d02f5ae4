"""Backends: a server gives the same rows as the model here, and what goes wrong is one line or a reason."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from contextgraft.errors import InputError, SourceError
from contextgraft.evaluation.backends import openai
from contextgraft.evaluation.backends.registry import BackendConfig
from contextgraft.evaluation.run import evaluate_models
from contextgraft.evaluation.spec import EvalSpec
from contextgraft.evaluation.suites.needle_grid import NeedleGrid
from contextgraft.evaluation.suites.skill_file import read_skill_file

MakeModel = Callable[..., Path]
Row = dict[str, Any]


class Notes:
    """A progress reporter that counts."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.count = 0
        self.known = 0

    def model(self, label: str, units: Mapping[str, int], known: int) -> None:
        self.known += known

    def advance(self, count: int) -> None:
        self.count += count

    def prefilled(self, prompt: int, computed: int) -> None:
        raise AssertionError("nobody counts the tokens of a server")

    def kept(self, label: str) -> None:
        self.found.append(label)


class Silent(Notes):
    """A watcher of a model in this process."""

    def prefilled(self, prompt: int, computed: int) -> None:
        assert 0 < computed <= prompt


@pytest.fixture
def spec(grid: NeedleGrid, skill_file: Path) -> EvalSpec:
    return EvalSpec((replace(grid, samples=2), read_skill_file(skill_file, 4)), seed=7)


@pytest.fixture
def folder(make_model: MakeModel) -> Path:
    return make_model("served", seed=1, hidden_size=64)


@pytest.fixture
def served(folder: Path, completions: Callable[..., Any]) -> Any:
    return completions(folder, "our/model")


@pytest.fixture
def running(served: Any) -> Iterator[Any]:
    with served.running():
        yield served


@pytest.fixture(autouse=True)
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "ATTEMPTS", 1)


def engine(url: str, batch_size: int = 4, name: str = "our/model") -> BackendConfig:
    return BackendConfig(backend="openai", url=url, model_name=name, batch_size=batch_size)


def rows(table: pa.Table) -> list[Row]:
    found: list[Row] = table.to_pylist()
    return found


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_server_gives_the_same_rows(
    folder: Path, spec: EvalSpec, running: Any, tmp_path: Path, batch_size: int
) -> None:
    here = evaluate_models([(None, folder)], spec, BackendConfig(), tmp_path / "hf.parquet", Silent())
    notes = Notes()
    there = evaluate_models(
        [(None, folder)], spec, engine(running.url, batch_size), tmp_path / "s.parquet", notes
    )
    assert rows(there) == rows(here)
    assert notes.count == len(running.prompts) == there.num_rows
    assert sorted(map(len, running.prompts)) == sorted(here["prompt_tokens"].to_pylist())


def test_no_key_is_sent(
    folder: Path, spec: EvalSpec, running: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    evaluate_models([(None, folder)], spec, engine(running.url), tmp_path / "s.parquet", Notes())
    assert not [headers for headers in running.headers if "secret" in str(headers)]


def test_answers_of_one_backend_are_not_taken_for_anothers(
    folder: Path, spec: EvalSpec, running: Any, tmp_path: Path
) -> None:
    out = tmp_path / "s.parquet"
    evaluate_models([(None, folder)], spec, engine(running.url), out, Notes())
    again, here = Notes(), Silent()
    evaluate_models([(None, folder)], spec, engine(running.url), out, again)
    evaluate_models([(None, folder)], spec, BackendConfig(), out, here)
    assert (again.found, here.found, here.known) == (["served"], [], 0)


def test_what_the_server_cannot_do_fails_and_is_requested_again(
    folder: Path, spec: EvalSpec, running: Any, tmp_path: Path
) -> None:
    out = tmp_path / "s.parquet"
    running.longest = 100
    table = rows(evaluate_models([(None, folder)], spec, engine(running.url, batch_size=3), out, Notes()))
    assert {row["status"] for row in table if row["prompt_tokens"] > 100} == {"failed"}
    assert {row["reason"] for row in table if row["prompt_tokens"] > 100} == {
        "RuntimeError: the server answered 500"
    }
    assert {row["status"] for row in table if row["prompt_tokens"] <= 100} == {"ok"}
    running.longest = 1000
    notes = Notes()
    table = rows(evaluate_models([(None, folder)], spec, engine(running.url), out, notes))
    assert {row["status"] for row in table} == {"ok"}
    assert notes.known == 10
    assert notes.count == 6


def test_a_wrong_name_is_one_line(folder: Path, spec: EvalSpec, running: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot be used; expected model 'other'; received .*404"):
        evaluate_models(
            [(None, folder)], spec, engine(running.url, name="other"), tmp_path / "s.parquet", Notes()
        )
    assert not list(tmp_path.glob(".*partial*"))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_server_that_is_down_is_one_line_and_answers_so_far_are_kept(
    folder: Path, spec: EvalSpec, served: Any, tmp_path: Path, batch_size: int
) -> None:
    out = tmp_path / "s.parquet"

    class Unplugging(Notes):
        def advance(self, count: int) -> None:
            super().advance(count)
            if self.count == 8:
                served.name = "another"

    notes = Unplugging()
    with served.running() as url, pytest.raises(SourceError, match="cannot be used"):
        evaluate_models([(None, folder)], spec, engine(url, batch_size), out, notes, allow_refused=True)
    with pytest.raises(SourceError, match="the server cannot be used"):
        evaluate_models([(None, folder)], spec, engine(url, batch_size), out, Notes())
    served.name = "our/model"
    again = Notes()
    with served.running() as url:
        evaluate_models([(None, folder)], spec, engine(url, batch_size), out, again)
    assert (again.known, again.count) == (8, 16 - 8)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1/completions", "ftps://nowhere", "no address"])
def test_a_server_that_cannot_be_reached_is_not_a_refusal_of_the_model(
    folder: Path, spec: EvalSpec, tmp_path: Path, url: str
) -> None:
    out = tmp_path / "s.parquet"
    with pytest.raises(SourceError, match="the server cannot be used") as raised:
        evaluate_models([(None, folder)], spec, engine(url), out, Notes(), allow_refused=True)
    assert "\n" not in str(raised.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"backend": "abacus"}, "no such backend; expected hf, openai, vllm, serve; received abacus"),
        ({"backend": "openai"}, "needs the address of a server"),
        ({"url": "http://127.0.0.1:1/v1/completions"}, "--url would have no effect"),
        ({"device": "toaster"}, "no such device"),
    ],
)
def test_engines_that_cannot_be_are_refused(
    folder: Path, spec: EvalSpec, tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        evaluate_models([(None, folder)], spec, BackendConfig(**changes), tmp_path / "s.parquet", Notes())


def test_a_server_holds_one_model(folder: Path, spec: EvalSpec, tmp_path: Path) -> None:
    two: list[tuple[str | None, Path]] = [("a", folder), ("b", folder)]
    with pytest.raises(InputError, match="a server holds one model"):
        evaluate_models(two, spec, engine("http://127.0.0.1:1"), tmp_path / "s.parquet", Notes())


def test_vllm_that_is_not_there_is_one_line(
    folder: Path, spec: EvalSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it fails
    with pytest.raises(InputError, match=r"needs vLLM; received .*vllm.*; pip install vllm"):
        evaluate_models(
            [(None, folder)],
            spec,
            BackendConfig(backend="vllm"),
            tmp_path / "s.parquet",
            Notes(),
            allow_refused=True,
        )
