"""Any question of a table is evaluated again from its prompt specification, and of its own model only."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contextgraft.errors import InputError, MismatchError, VerificationError
from contextgraft.evaluation.backends.registry import BackendConfig
from contextgraft.evaluation.replay import read_row, rebuild_prompt, replay_sample
from contextgraft.evaluation.replay.replayed_sample import ReplayedSample
from contextgraft.evaluation.run import evaluate_models
from contextgraft.evaluation.spec import EvalSpec
from contextgraft.evaluation.suites.base import Measurement, SampleRow
from contextgraft.evaluation.suites.divergence import DivergenceMeasurement
from contextgraft.evaluation.suites.needle_grid import NeedleGrid
from contextgraft.evaluation.suites.perplexity import PerplexityMeasurement
from contextgraft.evaluation.suites.skill_file import SkillFile, read_skill_file
from contextgraft.evaluation.suites.text_prompts import SkillLines, Text, TextWindows

MakeModel = Callable[..., Path]


class Silent:
    """A watcher that does not watch."""

    def model(self, *_: Any) -> None: ...

    def advance(self, *_: Any) -> None: ...

    def prefilled(self, *_: Any) -> None: ...

    def kept(self, *_: Any) -> None: ...


@pytest.fixture
def spec(grid: NeedleGrid, skill_file: Path) -> EvalSpec:
    return EvalSpec((replace(grid, samples=2), read_skill_file(skill_file, 4)), seed=7)


@pytest.fixture
def model(make_model: MakeModel) -> Path:
    return make_model("replayed", hidden_size=64)


@pytest.fixture
def samples(model: Path, spec: EvalSpec, tmp_path: Path) -> Path:
    evaluate_models([("m", model)], spec, BackendConfig(), tmp_path / "s.parquet", Silent())
    return tmp_path / "s.parquet"


def replay(
    row: SampleRow, model: Path, spec: EvalSpec, reference: Path | None = None, **backend: Any
) -> ReplayedSample:
    return replay_sample(row, model, spec, BackendConfig(**backend), reference)


ROWS = [3, pytest.param(1, marks=pytest.mark.slow)]  # every third row, or every row


@pytest.mark.parametrize("step", ROWS)
def test_every_row_says_the_same_again(
    samples: Path, model: Path, spec: EvalSpec, grid: NeedleGrid, step: int
) -> None:
    other = replace(
        spec, seed=99, question_sets=(replace(grid, lengths=(50,), samples=1), spec.question_sets[1])
    )
    for number, row in list(enumerate(pq.read_table(samples).to_pylist()))[::step]:
        replayed = replay(read_row(samples, number), model, other, prefill_chunk=7)
        assert replayed.agrees
        assert (replayed.recorded, replayed.recorded_score) == (row["output"], row["score"])
        assert (replayed.output, replayed.score) == (row["output"], row["score"])
        assert replayed.prompt_tokens == row["prompt_tokens"] == len(replayed.prompt.split())
        assert (replayed.expected, replayed.length, replayed.depth) == (
            row["answer"],
            row["length"],
            row["depth"],
        )


def test_a_prompt_needs_no_weights(samples: Path, model: Path, spec: EvalSpec, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    last = pq.read_table(samples).num_rows - 1
    for number in (0, last):
        row = read_row(samples, number)
        prompt = rebuild_prompt(row, tmp_path / "bare", spec)
        assert prompt == replay(row, model, spec).prompt
        with pytest.raises(VerificationError, match="gives another prompt than was recorded"):
            rebuild_prompt({**row, "prompt_digest": "another"}, tmp_path / "bare", spec)


def test_a_row_that_differs_is_reported(samples: Path, model: Path, spec: EvalSpec) -> None:
    row = {**read_row(samples, 0), "output": "it was not so"}
    assert not replay(row, model, spec).agrees


def test_another_model_is_refused(samples: Path, make_model: MakeModel, spec: EvalSpec) -> None:
    with pytest.raises(MismatchError, match="is not the model of the row"):
        replay(read_row(samples, 0), make_model("other", seed=5), spec)


def test_the_model_may_have_moved(samples: Path, model: Path, spec: EvalSpec, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "elsewhere")
    assert replay(read_row(samples, 0), tmp_path / "elsewhere", spec).agrees


def test_a_changed_haystack_or_skill_is_refused(
    samples: Path, model: Path, spec: EvalSpec, tmp_path: Path
) -> None:
    grid, skill = spec.question_sets
    assert isinstance(grid, NeedleGrid)
    assert isinstance(skill, SkillFile)
    changed = replace(grid, haystack=replace(grid.haystack, text="it was a dark night " * 80))
    with pytest.raises(InputError, match="is not what the row was evaluated with"):
        replay(read_row(samples, 0), model, replace(spec, question_sets=(changed, skill)))
    last = pq.read_table(samples).num_rows - 1
    skill = replace(skill, digest="another")
    with pytest.raises(InputError, match="is not what the row was evaluated with"):
        replay(read_row(samples, last), model, replace(spec, question_sets=(grid, skill)))


def test_a_recipe_that_gives_another_prompt_is_reported(samples: Path, model: Path, spec: EvalSpec) -> None:
    row = read_row(samples, 0)
    with pytest.raises(VerificationError, match="gives another prompt than was recorded"):
        replay({**row, "prompt_digest": "another"}, model, spec)
    with pytest.raises(VerificationError, match="gives another answer than was recorded"):
        replay({**row, "answer": "no"}, model, spec)


def test_rows_that_are_not_there_are_refused(samples: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such row; expected 0 to \d+; received 1000"):
        read_row(samples, 1000)
    with pytest.raises(InputError, match="cannot read the samples"):
        read_row(tmp_path / "none.parquet", 0)
    pq.write_table(pa.table({"model": ["m"]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="is not a table of samples"):
        read_row(tmp_path / "other.parquet", 0)


SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "zeros": lambda raw: bytes(len(raw)),
    "zeros in a page": lambda raw: raw[:200] + bytes(50) + raw[250:],
    "cut": lambda raw: raw[: len(raw) // 2],
    "a byte of a page": lambda raw: raw[:300] + bytes([raw[300] ^ 1]) + raw[301:],
    "a byte of the footer": lambda raw: raw[:-40] + bytes([raw[-40] ^ 1]) + raw[-39:],
    "empty": lambda _: b"",
    "text": lambda _: b"a line\n",
}


def test_spoiled_and_foreign_tables_are_one_line(
    samples: Path, model: Path, spec: EvalSpec, tmp_path: Path
) -> None:
    raw, path = samples.read_bytes(), tmp_path / "spoiled.parquet"
    for name, spoil in SPOILS.items():
        path.write_bytes(spoil(raw))
        with pytest.raises(InputError, match=r"spoiled\.parquet"):
            pytest.fail(f"{name}: {read_row(path, 0)}")
    table = pq.read_table(samples)
    for name, column in {
        "position": pa.array(["x"] * len(table)),
        "recipe": pa.array(["[1]"] * len(table)),
        "answer": pa.array([1] * len(table)),
    }.items():
        foreign = table.set_column(table.column_names.index(name), name, column)
        pq.write_table(foreign.replace_schema_metadata(None), path)
        with pytest.raises(InputError):
            pytest.fail(f"{name}: {read_row(path, 0)}")
    (tmp_path / "folder.parquet").mkdir()
    os.mkfifo(tmp_path / "pipe.parquet")
    for name in ("folder", "pipe"):
        with pytest.raises(InputError, match="received not a file"):
            read_row(tmp_path / f"{name}.parquet", 0)


@pytest.mark.parametrize("recipe", ["{}", '{"length": "x"}', '{"seed": []}', '{"length": null, "seed": -1}'])
def test_a_row_of_another_program_is_one_line(
    samples: Path, model: Path, spec: EvalSpec, recipe: str
) -> None:
    row = read_row(samples, 0)
    with pytest.raises((InputError, VerificationError)):
        rebuild_prompt({**row, "recipe": recipe}, model, spec)


@pytest.fixture
def text() -> Text:
    return Text("filler", "0" * 64, "it was a dark night and nobody came " * 50)


@pytest.fixture
def measures(text: Text, skill_file: Path) -> tuple[Measurement, ...]:
    return (
        PerplexityMeasurement(TextWindows(text, 100, 3, 7), 100),
        DivergenceMeasurement(TextWindows(text, 30, 4, 7)),
        DivergenceMeasurement(SkillLines(read_skill_file(skill_file), 3, 7)),
    )


@pytest.fixture
def other(make_model: MakeModel) -> Path:
    return make_model("other", seed=5)


@pytest.fixture
def measured(model: Path, other: Path, measures: tuple[Measurement, ...], tmp_path: Path) -> Path:
    models = [("reference", model), ("m", other)]
    evaluate_models(
        models, EvalSpec(measurements=measures), BackendConfig(), tmp_path / "m.parquet", Silent()
    )
    return tmp_path / "m.parquet"


@pytest.mark.parametrize("step", ROWS)
def test_every_measured_row_gives_the_same_figure_again(
    *, measured: Path, model: Path, other: Path, text: Text, measures: tuple[Measurement, ...], step: int
) -> None:
    fewer = (
        PerplexityMeasurement(TextWindows(text, 100, 1, 99), 100),
        DivergenceMeasurement(TextWindows(text, 30, 1, 99)),
        measures[2],
    )
    rows = pq.read_table(measured).to_pylist()
    assert len(rows) == 2 * (3 * 2 + 4 + 3)
    for number, row in list(enumerate(rows))[::step]:
        mine = {"reference": model, "m": other}[row["model"]]
        replayed = replay(read_row(measured, number), mine, EvalSpec(measurements=fewer), reference=model)
        assert replayed.agrees
        assert replayed.score == pytest.approx(row["score"], rel=1e-3, abs=1e-6)
        assert (replayed.recorded, replayed.output, replayed.expected) == (None, None, None)
        assert len(replayed.prompt.split()) == replayed.prompt_tokens == row["prompt_tokens"]


def test_a_measured_prompt_needs_no_weights(
    measured: Path, model: Path, other: Path, measures: tuple[Measurement, ...]
) -> None:
    rows = {(row["model"], row["suite"]): n for n, row in enumerate(pq.read_table(measured).to_pylist())}
    for number in rows.values():
        row = read_row(measured, number)
        prompt = rebuild_prompt(row, model, EvalSpec(measurements=measures))
        assert len(prompt.split()) == row["prompt_tokens"]
        with pytest.raises(VerificationError, match="gives another prompt than was recorded"):
            rebuild_prompt({**row, "prompt_digest": "no"}, other, EvalSpec(measurements=measures))


def test_another_score_is_reported(measured: Path, model: Path, measures: tuple[Measurement, ...]) -> None:
    row = read_row(measured, 0)
    for score in (row["score"] + 0.1, None):
        assert not replay({**row, "score": score}, model, EvalSpec(measurements=measures)).agrees


def test_a_divergence_needs_its_own_reference(
    measured: Path, model: Path, other: Path, make_model: MakeModel, measures: tuple[Measurement, ...]
) -> None:
    number = next(
        place
        for place, row in enumerate(pq.read_table(measured).to_pylist())
        if (row["model"], row["suite"]) == ("m", "divergence")
    )
    row = read_row(measured, number)
    assert row["reference_digest"] not in (None, row["model_digest"])
    with pytest.raises(InputError, match="is measured from another model's predictions"):
        replay(row, other, EvalSpec(measurements=measures))
    with pytest.raises(MismatchError, match="is not the model of the row's reference"):
        replay(row, other, EvalSpec(measurements=measures), reference=make_model("third", seed=9))


def test_a_changed_text_is_refused(measured: Path, model: Path, text: Text) -> None:
    row = read_row(measured, 0)
    changed = PerplexityMeasurement(TextWindows(replace(text, digest="1" * 64), 100, 3, 7), 100)
    with pytest.raises(InputError, match=r"the text is not what the row was measured on.*--text"):
        replay(row, model, EvalSpec(measurements=(changed,)))
    with pytest.raises(InputError, match="that the row was measured on was not given"):
        replay(row, model, EvalSpec())
    same_name = PerplexityMeasurement(TextWindows(replace(text, content=text.content[7:]), 100, 3, 7), 100)
    with pytest.raises(VerificationError, match="gives another prompt than was recorded"):
        replay(row, model, EvalSpec(measurements=(same_name,)))


def test_a_row_of_a_model_that_was_refused_is_refused(samples: Path, tmp_path: Path) -> None:
    table = pq.read_table(samples)
    column = table.schema.get_field_index("recipe")
    nothing = pa.array([None] * table.num_rows, pa.string())
    pq.write_table(table.set_column(column, "recipe", nothing), tmp_path / "refused.parquet")
    with pytest.raises(InputError, match="row 0 is of a model that was skipped"):
        read_row(tmp_path / "refused.parquet", 0)
