"""Whole runs: the table, resuming, graft columns, same rows twice."""

import json
import pickle
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from contextgraft.errors import InputError, MismatchError, OutputBusy
from contextgraft.evaluation.backends import transformers as token_lm_module
from contextgraft.evaluation.backends.generation import prefill
from contextgraft.evaluation.backends.registry import BackendConfig
from contextgraft.evaluation.backends.tokenizer import load_tokenizer
from contextgraft.evaluation.run import evaluate_models
from contextgraft.evaluation.spec import EvalSpec
from contextgraft.evaluation.suites.needle_grid import NeedleGrid
from contextgraft.evaluation.suites.skill_file import read_skill_file
from contextgraft.evaluation.summary import as_json, summarise
from contextgraft.formats.samples import SCHEMA
from contextgraft.formats.sidecar import sidecar

from ..command_server import command_server

MakeModel = Callable[..., Path]
Models = list[tuple[str | None, Path]]


class Notes:
    """A progress reporter that remembers, and does `action` when the model of that label begins."""

    def __init__(self, label: str | None = None, action: Callable[[], object] | None = None) -> None:
        self.begun: list[str] = []
        self.found: list[str] = []
        self.count = 0
        self.known = 0
        self.tokens = (0, 0)
        self.label = label
        self.action = action

    def model(self, label: str, units: Mapping[str, int], known: int) -> None:
        self.begun.append(label)
        self.known += known
        if label == self.label and self.action:
            self.action()

    def advance(self, count: int) -> None:
        self.count += count

    def prefilled(self, prompt: int, computed: int) -> None:
        self.tokens = (prompt, computed)

    def kept(self, label: str) -> None:
        self.found.append(label)


@pytest.fixture
def spec(grid: NeedleGrid, skill_file: Path) -> EvalSpec:
    return EvalSpec((replace(grid, lengths=(40,), samples=2), read_skill_file(skill_file, 4)), seed=7)


@pytest.fixture
def models(make_model: MakeModel) -> Models:
    return [("one", make_model("a", seed=1)), (None, make_model("two", seed=2))]


def test_the_table_has_the_schema_and_a_row_a_sample(models: Models, spec: EvalSpec, tmp_path: Path) -> None:
    out = tmp_path / "samples.parquet"
    notes = Notes()
    table = evaluate_models(models, spec, BackendConfig(), out, notes)
    written = pq.read_table(out)
    assert written.schema.equals(SCHEMA)
    assert written.to_pylist() == table.to_pylist()
    assert table.num_rows == notes.count == 2 * (3 * 2 + 4)
    assert table["model"].unique().to_pylist() == ["one", "two"] == notes.begun
    needle, skill = table.to_pylist()[0], table.to_pylist()[-1]
    assert (needle["suite"], needle["task"], needle["length"], needle["prompt_tokens"]) == (
        "needle",
        "code",
        40,
        36,
    )
    assert (skill["suite"], skill["task"], skill["length"], skill["depth"]) == ("skill", "polite", None, None)
    assert set(table["status"].to_pylist()) == {"ok"}
    assert set(table["score"].to_pylist()) <= {0.0, 1.0}
    assert table["target_digest"].null_count == table.num_rows
    assert not list(tmp_path.glob(".*partial*"))


def test_a_grid_of_shared_texts_costs_less_than_half_of_a_prefill_a_cell(
    models: Models, grid: NeedleGrid, tmp_path: Path
) -> None:
    notes = Notes()
    spec = EvalSpec((replace(grid, lengths=(100, 200), samples=4),), seed=7)
    table = evaluate_models(models[:1], spec, BackendConfig(), tmp_path / "samples.parquet", notes)
    prompt, computed = notes.tokens
    assert prompt == sum(table["prompt_tokens"].to_pylist())
    assert prompt / 3 <= computed <= prompt / 2


def test_two_runs_give_the_same_bytes(models: Models, spec: EvalSpec, tmp_path: Path) -> None:
    for name in ("x.parquet", "y.parquet"):
        evaluate_models(models, spec, BackendConfig(), tmp_path / name, Notes())
    assert (tmp_path / "x.parquet").read_bytes() == (tmp_path / "y.parquet").read_bytes()


# Forked from a process that has computed nothing: torch's pool of threads does not survive a fork.
KILLED = """
import os, pickle, signal, sys
from contextgraft.evaluation.backends.registry import BackendConfig
from contextgraft.evaluation.run import evaluate_models

models, spec, cases = pickle.load(sys.stdin.buffer)

class KillingReporter:
    def __init__(self, label, after):
        self.label, self.after = label, after
    def model(self, name, questions, known):
        self.left = self.after if name == self.label else 1_000_000
        self.advance(0)
    def advance(self, count):
        self.left -= count
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
    def prefilled(self, prompt, computed): ...
    def kept(self, label): ...

for out, label, after in cases:
    child = os.fork()  # spares the second and third the imports
    if not child:
        evaluate_models(models, spec, BackendConfig(batch_size=2), out, KillingReporter(label, after))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, (label, after, status)
"""


def test_a_killed_run_asks_nothing_twice(models: Models, spec: EvalSpec, tmp_path: Path) -> None:
    expected = evaluate_models(models, spec, BackendConfig(), tmp_path / "whole.parquet", Notes())
    kills = ("two", 0), ("two", 5), ("one", 9)
    cases = [(tmp_path / f"{label}-{after}" / "samples.parquet", label, after) for label, after in kills]
    for out, *_ in cases:
        out.parent.mkdir()
    killed = subprocess.run(
        [command_server("contextgraft").python, "-c", KILLED],
        input=pickle.dumps((models, spec, cases)),
        capture_output=True,
        check=False,
    )
    assert killed.returncode == 0, killed.stderr.decode()
    for out, label, after in cases:
        assert not out.exists()
        notes = Notes()
        table = evaluate_models(models, spec, BackendConfig(), out, notes)
        found = ["one"] if label == "two" else []
        assert notes.found == found
        assert notes.known == after
        assert notes.count == expected.num_rows - after - 10 * len(found)
        assert table.to_pylist() == expected.to_pylist()
        assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
        assert not list(out.parent.glob(".*partial*"))


def test_a_complete_output_is_left_alone_and_another_run_replaces_it(
    models: Models, spec: EvalSpec, tmp_path: Path
) -> None:
    out = tmp_path / "samples.parquet"
    first = evaluate_models(models, spec, BackendConfig(), out, Notes())
    before = out.stat().st_mtime_ns
    notes = Notes()
    left = tmp_path / ".samples.parquet.partial/whole"  # by a run that was killed at its end
    left.parent.mkdir()
    left.touch()
    assert evaluate_models(models, spec, BackendConfig(), out, notes).to_pylist() == first.to_pylist()
    assert not left.parent.exists()
    assert (notes.found, notes.begun, out.stat().st_mtime_ns) == (["one", "two"], [], before)
    needles = replace(spec, question_sets=spec.question_sets[:1])
    for changed in (replace(spec, seed=8), needles):
        notes = Notes()
        evaluate_models(models, changed, BackendConfig(), out, notes)
        assert notes.begun == ["one", "two"]
    notes = Notes()
    evaluate_models(models[:1], needles, BackendConfig(), out, notes)
    assert pq.read_table(out)["model"].unique().to_pylist() == ["one"]


def test_only_what_failed_is_evaluated_again(
    models: Models, spec: EvalSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "samples.parquet"

    def no_memory(*arguments: Any, **words: Any) -> Any:
        if arguments[2].shape[1] > 30:
            raise torch.OutOfMemoryError("tried to allocate 3 GiB")
        return prefill(*arguments, **words)

    with monkeypatch.context() as patch:
        patch.setattr(token_lm_module, "prefill", no_memory)
        table = evaluate_models(models, spec, BackendConfig(), out, Notes())
    assert [row["status"] for row in table.to_pylist()] == 2 * (6 * ["failed"] + 4 * ["ok"])
    assert {row["reason"] for row in table.to_pylist()[:6]} == {"OutOfMemoryError: tried to allocate 3 GiB"}
    assert {(score.n, score.missing) for score in summarise(table)} == {(0, 6), (4, 0)}
    notes = Notes()
    again = evaluate_models(models, spec, BackendConfig(), out, notes)
    assert (notes.begun, notes.known, notes.count) == (["one", "two"], 8, 12)
    assert set(again["status"].to_pylist()) == {"ok"}
    assert not list(tmp_path.glob(".*partial*"))


def test_rows_of_a_graft_tell_where_it_comes_from(models: Models, spec: EvalSpec, tmp_path: Path) -> None:
    folder = models[0][1]
    who = {
        name: {"name": name, "digest": f"{name} digest", "source": None, "revision": None} for name in "bdt"
    }
    content = sidecar(
        "graft",
        adapters=[{"digest": "adapter digest", "rank": 8, "scale": 1, "base": who["b"], "donor": who["d"]}],
        target=who["t"],
    )
    (folder / "contextgraft.json").write_text(json.dumps(content))
    table = evaluate_models(models, spec, BackendConfig(), tmp_path / "samples.parquet", Notes())
    graft, other = table.to_pylist()[0], table.to_pylist()[-1]
    origin = ("target", "base", "donor", "adapter", "rank", "scale")
    assert {name: graft[name] for name in graft if name.startswith(origin)} == {
        "target_name": "t",
        "target_digest": "t digest",
        "base_digest": "b digest",
        "donor_digest": "d digest",
        "donor_name": "d",
        "adapter_digest": "adapter digest",
        "rank": 8,
        "scale": 1.0,
    }
    assert (other["rank"], other["role"], graft["role"]) == (None, "model", "graft")


def test_each_tokenizer_has_its_own_prompts(
    models: Models, spec: EvalSpec, make_model: MakeModel, tmp_path: Path
) -> None:
    tokens = load_tokenizer(models[0][1])
    words = sorted(tokens.hf.get_vocab(), key=lambda word: word.encode()[::-1])
    grown = make_model("grown", words=[*words, "new"])
    table = evaluate_models(
        [*models, ("grown", grown)], spec, BackendConfig(), tmp_path / "samples.parquet", Notes()
    )
    recipes = {
        label: [r["recipe"] for r in table.to_pylist() if r["model"] == label] for label in ("one", "grown")
    }
    needles = {label: [json.loads(recipe)["items"] for recipe in recipes[label][:6]] for label in recipes}
    assert needles["one"] == needles["grown"]
    assert set(table["status"].to_pylist()) == {"ok"}


def test_words_that_are_lacking_are_told_before_weights_are_read(
    models: Models, spec: EvalSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = spec.question_sets[0]
    assert isinstance(grid, NeedleGrid)
    foreign = replace(grid.haystack, text="other words than the model knows")
    read: list[object] = []
    monkeypatch.setattr("contextgraft.evaluation.run.ModelRun", lambda *words, **_: read.append(words))
    lacking = replace(spec, question_sets=(replace(grid, haystack=foreign),))
    with pytest.raises(InputError, match=r"lacks its words; .*--haystack FILE"):
        evaluate_models(models, lacking, BackendConfig(), tmp_path / "out.parquet", Notes())
    assert not read
    assert not list(tmp_path.glob("*out.parquet*"))


def test_a_tokenizer_larger_than_its_model_is_refused(
    spec: EvalSpec, make_model: MakeModel, tmp_path: Path
) -> None:
    small = make_model("small", vocab_size=20)
    with pytest.raises(MismatchError, match="expected token ids below 20"):
        evaluate_models([(None, small)], spec, BackendConfig(), tmp_path / "samples.parquet", Notes())


def test_two_models_of_one_label_are_refused(models: Models, spec: EvalSpec, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two models are labelled 'two'"):
        evaluate_models(
            [("two", models[0][1]), models[1]], spec, BackendConfig(), tmp_path / "o.parquet", Notes()
        )


def test_two_runs_on_one_output_at_once_are_refused(models: Models, spec: EvalSpec, tmp_path: Path) -> None:
    out = tmp_path / "samples.parquet"

    def second() -> None:
        with pytest.raises(OutputBusy):
            evaluate_models(models, spec, BackendConfig(), out, Notes())

    evaluate_models(models, spec, BackendConfig(), out, Notes("one", second))
    assert out.is_file()


def test_the_summary_counts_by_model_task_and_length(models: Models, spec: EvalSpec, tmp_path: Path) -> None:
    table = evaluate_models(models, spec, BackendConfig(), tmp_path / "samples.parquet", Notes())
    scores = summarise(table)
    keys = [(score.model, score.suite, score.task, score.length, score.n) for score in scores]
    assert keys == [
        (label, *rest)
        for label in ("one", "two")
        for rest in (("needle", "code", 40, 6), ("skill", "polite", None, 4))
    ]
    plain = as_json(scores)[0]
    assert plain["low"] <= plain["mean"] <= plain["high"]


def test_the_query_of_the_documentation_counts_cells(models: Models, spec: EvalSpec, tmp_path: Path) -> None:
    import duckdb

    evaluate_models(models, spec, BackendConfig(), tmp_path / "samples.parquet", Notes())
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    query = page.split("```sql")[1].split("```")[0]
    query = query.replace("results/demo/samples/*.parquet", str(tmp_path / "*.parquet"))
    assert [row[:4] for row in duckdb.sql(query).fetchall()] == [
        (label, 40, depth, 2) for label in ("one", "two") for depth in (0.0, 50.0, 100.0)
    ]


def test_every_column_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    table = page.split("| column |")[1]
    assert [name for name in SCHEMA.names if name not in table] == []


# lm-eval is only for its own tasks: any import of it would fail here, and none was made before.
WITHOUT_LM_EVAL = """
import importlib.metadata, pickle, sys

assert "lm_eval" not in sys.modules
sys.modules["lm_eval"] = None
real = importlib.metadata.distribution

def distribution(name):
    if name == "lm_eval":
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)

importlib.metadata.distribution = distribution

from contextgraft.evaluation.backends.registry import BackendConfig
from contextgraft.evaluation.progress import TerminalProgress
from contextgraft.evaluation.run import evaluate_models

models, spec, out = pickle.load(sys.stdin.buffer)
evaluate_models(models, spec, BackendConfig(), out, TerminalProgress(len(models), sys.stderr))
"""


def test_lm_eval_need_not_be_installed(models: Models, spec: EvalSpec, tmp_path: Path) -> None:
    out = tmp_path / "samples.parquet"
    ran = subprocess.run(
        [command_server("contextgraft").python, "-c", WITHOUT_LM_EVAL],
        input=pickle.dumps((models, spec, out)),
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    rows = pq.read_table(out).to_pylist()
    assert {row["lm_eval"] for row in rows} == {None}
    whole = evaluate_models(models, spec, BackendConfig(), tmp_path / "whole.parquet", Notes()).to_pylist()
    assert [{**row, "lm_eval": None} for row in whole] == rows
