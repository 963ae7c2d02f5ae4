"""Any question of a table is asked again from its recipe alone, and of its own model only."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contextgraft.errors import InputError, MismatchError, VerificationError
from contextgraft.evaluation.backends.registry import Engine
from contextgraft.evaluation.replay import Asking, read_row, replay, split_place
from contextgraft.evaluation.run import evaluate_models
from contextgraft.evaluation.suites.base import Measure
from contextgraft.evaluation.suites.divergence import DivergenceMeasure
from contextgraft.evaluation.suites.perplexity import PerplexityMeasure
from contextgraft.evaluation.suites.spec import Exam, NeedleGrid, read_skill
from contextgraft.evaluation.suites.text_prompts import Lines, Text, Windows

MakeModel = Callable[..., Path]


class Silent:
    """A watcher that does not watch."""

    def model(self, *_: Any) -> None: ...

    def asked(self, *_: Any) -> None: ...

    def prefilled(self, *_: Any) -> None: ...

    def kept(self, *_: Any) -> None: ...


@pytest.fixture
def exam(grid: NeedleGrid, skill_file: Path) -> Exam:
    return Exam((replace(grid, samples=2),), (read_skill(skill_file, 4),), seed=7)


@pytest.fixture
def model(make_model: MakeModel) -> Path:
    return make_model("asked", hidden_size=64)


@pytest.fixture
def samples(model: Path, exam: Exam, tmp_path: Path) -> Path:
    evaluate_models([("m", model)], exam, Engine(), tmp_path / "s.parquet", Silent())
    return tmp_path / "s.parquet"


def asking(exam: Exam, *measures: Measure, reference: Path | None = None, **engine: Any) -> Asking:
    return Asking(exam, measures, Engine(**engine), reference)


def test_every_row_says_the_same_again(samples: Path, model: Path, exam: Exam) -> None:
    other = replace(exam, seed=99, grids=(replace(exam.grids[0], lengths=(50,), samples=1),))
    for number, row in enumerate(pq.read_table(samples).to_pylist()):
        replayed = replay(read_row(samples, number), model, asking(other, prefill_chunk=7))
        assert replayed.agrees
        assert (replayed.recorded, replayed.recorded_score) == (row["output"], row["score"])
        assert (replayed.output, replayed.score) == (row["output"], row["score"])
        assert replayed.prompt_tokens == row["prompt_tokens"] == len(replayed.prompt.split())
        assert (replayed.expected, replayed.length, replayed.depth) == (
            row["answer"],
            row["length"],
            row["depth"],
        )


def test_a_row_that_says_something_else_is_told(samples: Path, model: Path, exam: Exam) -> None:
    row = {**read_row(samples, 0), "output": "it was not so"}
    assert not replay(row, model, asking(exam)).agrees


def test_another_model_is_refused(samples: Path, make_model: MakeModel, exam: Exam) -> None:
    with pytest.raises(MismatchError, match="is not the model of the row"):
        replay(read_row(samples, 0), make_model("other", seed=5), asking(exam))


def test_the_model_may_have_moved(samples: Path, model: Path, exam: Exam, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "elsewhere")
    assert replay(read_row(samples, 0), tmp_path / "elsewhere", asking(exam)).agrees


def test_a_changed_haystack_or_skill_is_refused(
    samples: Path, model: Path, exam: Exam, tmp_path: Path
) -> None:
    grid = exam.grids[0]
    changed = replace(grid, haystack=replace(grid.haystack, text="it was a dark night " * 80))
    with pytest.raises(InputError, match="is not what the row was asked with"):
        replay(read_row(samples, 0), model, asking(replace(exam, grids=(changed,))))
    last = pq.read_table(samples).num_rows - 1
    skill = replace(exam.skills[0], digest="another")
    with pytest.raises(InputError, match="is not what the row was asked with"):
        replay(read_row(samples, last), model, asking(replace(exam, skills=(skill,))))


def test_a_recipe_that_gives_another_prompt_is_told(samples: Path, model: Path, exam: Exam) -> None:
    row = read_row(samples, 0)
    with pytest.raises(VerificationError, match="gives another prompt than was asked"):
        replay({**row, "prompt_digest": "another"}, model, asking(exam))
    with pytest.raises(VerificationError, match="gives another answer than was asked"):
        replay({**row, "answer": "no"}, model, asking(exam))


def test_places_that_name_no_sample_are_refused(samples: Path, tmp_path: Path) -> None:
    assert split_place("a:b.parquet:17") == (Path("a:b.parquet"), 17)
    for place in ("s.parquet", "s.parquet:", "s.parquet:-1", "s.parquet:x"):
        with pytest.raises(InputError, match="names no sample"):
            split_place(place)
    with pytest.raises(InputError, match=r"no such row; expected 0 to \d+; received 1000"):
        read_row(samples, 1000)
    with pytest.raises(InputError, match="cannot read the samples"):
        read_row(tmp_path / "none.parquet", 0)
    pq.write_table(pa.table({"model": ["m"]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="holds no samples"):
        read_row(tmp_path / "other.parquet", 0)


@pytest.fixture
def text() -> Text:
    return Text("filler", "0" * 64, "it was a dark night and nobody came " * 50)


@pytest.fixture
def measures(text: Text, skill_file: Path) -> tuple[Measure, ...]:
    return (
        PerplexityMeasure(Windows(text, 100, 3, 7), 100),
        DivergenceMeasure(Windows(text, 30, 4, 7)),
        DivergenceMeasure(Lines(read_skill(skill_file), 3, 7)),
    )


@pytest.fixture
def other(make_model: MakeModel) -> Path:
    return make_model("other", seed=5)


@pytest.fixture
def measured(model: Path, other: Path, measures: tuple[Measure, ...], tmp_path: Path) -> Path:
    models = [("reference", model), ("m", other)]
    evaluate_models(models, Exam(), Engine(), tmp_path / "m.parquet", Silent(), measures=measures)
    return tmp_path / "m.parquet"


def test_every_measured_row_gives_the_same_figure_again(
    measured: Path, model: Path, other: Path, text: Text, measures: tuple[Measure, ...]
) -> None:
    fewer = (
        PerplexityMeasure(Windows(text, 100, 1, 99), 100),
        DivergenceMeasure(Windows(text, 30, 1, 99)),
        measures[2],
    )
    rows = pq.read_table(measured).to_pylist()
    assert len(rows) == 2 * (3 * 2 + 4 + 3)
    for number, row in enumerate(rows):
        mine = {"reference": model, "m": other}[row["model"]]
        replayed = replay(read_row(measured, number), mine, asking(Exam(), *fewer, reference=model))
        assert replayed.agrees
        assert replayed.score == pytest.approx(row["score"], rel=1e-3, abs=1e-6)
        assert (replayed.recorded, replayed.output, replayed.expected) == (None, None, None)
        assert len(replayed.prompt.split()) == replayed.prompt_tokens == row["prompt_tokens"]


def test_another_figure_is_told(measured: Path, model: Path, measures: tuple[Measure, ...]) -> None:
    row = read_row(measured, 0)
    for score in (row["score"] + 0.1, None):
        assert not replay({**row, "score": score}, model, asking(Exam(), *measures)).agrees


def test_a_divergence_needs_its_own_reference(
    measured: Path, model: Path, other: Path, make_model: MakeModel, measures: tuple[Measure, ...]
) -> None:
    number = next(
        place
        for place, row in enumerate(pq.read_table(measured).to_pylist())
        if (row["model"], row["suite"]) == ("m", "divergence")
    )
    row = read_row(measured, number)
    assert row["reference_digest"] not in (None, row["model_digest"])
    with pytest.raises(InputError, match="is measured from another model's predictions"):
        replay(row, other, asking(Exam(), *measures))
    with pytest.raises(MismatchError, match="is not the model of the row's reference"):
        replay(row, other, asking(Exam(), *measures, reference=make_model("third", seed=9)))


def test_a_changed_text_is_refused(measured: Path, model: Path, text: Text) -> None:
    row = read_row(measured, 0)
    changed = PerplexityMeasure(Windows(replace(text, digest="1" * 64), 100, 3, 7), 100)
    with pytest.raises(InputError, match=r"the text is not what the row was measured on.*--text"):
        replay(row, model, asking(Exam(), changed))
    with pytest.raises(InputError, match="what the row was measured on is not given"):
        replay(row, model, asking(Exam()))
    same_name = PerplexityMeasure(Windows(replace(text, content=text.content[7:]), 100, 3, 7), 100)
    with pytest.raises(VerificationError, match="gives another prompt than was asked"):
        replay(row, model, asking(Exam(), same_name))


def test_a_row_of_a_model_that_was_refused_is_refused(samples: Path, tmp_path: Path) -> None:
    table = pq.read_table(samples)
    column = table.schema.get_field_index("recipe")
    nothing = pa.array([None] * table.num_rows, pa.string())
    pq.write_table(table.set_column(column, "recipe", nothing), tmp_path / "refused.parquet")
    with pytest.raises(InputError, match="row 0 is of a model that was not asked"):
        read_row(tmp_path / "refused.parquet", 0)
