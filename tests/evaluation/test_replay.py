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
from contextgraft.evaluation.engine import Engine
from contextgraft.evaluation.replay import read_row, replay, split_place
from contextgraft.evaluation.run import evaluate_models
from contextgraft.evaluation.suites import Exam, NeedleGrid, read_skill

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


def test_every_row_says_the_same_again(samples: Path, model: Path, exam: Exam) -> None:
    other = replace(exam, seed=99, grids=(replace(exam.grids[0], lengths=(50,), samples=1),))
    for number, row in enumerate(pq.read_table(samples).to_pylist()):
        replayed = replay(read_row(samples, number), model, other, Engine(prefill_chunk=7))
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
    assert not replay(row, model, exam, Engine()).agrees


def test_another_model_is_refused(samples: Path, make_model: MakeModel, exam: Exam) -> None:
    with pytest.raises(MismatchError, match="is not the model of the row"):
        replay(read_row(samples, 0), make_model("other", seed=5), exam, Engine())


def test_the_model_may_have_moved(samples: Path, model: Path, exam: Exam, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "elsewhere")
    assert replay(read_row(samples, 0), tmp_path / "elsewhere", exam, Engine()).agrees


def test_a_changed_haystack_or_skill_is_refused(
    samples: Path, model: Path, exam: Exam, tmp_path: Path
) -> None:
    grid = exam.grids[0]
    changed = replace(grid, haystack=replace(grid.haystack, text="it was a dark night " * 80))
    with pytest.raises(InputError, match="is not what the row was asked with"):
        replay(read_row(samples, 0), model, replace(exam, grids=(changed,)), Engine())
    last = pq.read_table(samples).num_rows - 1
    skill = replace(exam.skills[0], digest="another")
    with pytest.raises(InputError, match="is not what the row was asked with"):
        replay(read_row(samples, last), model, replace(exam, skills=(skill,)), Engine())


def test_a_recipe_that_gives_another_prompt_is_told(samples: Path, model: Path, exam: Exam) -> None:
    row = read_row(samples, 0)
    with pytest.raises(VerificationError, match="gives another prompt than was asked"):
        replay({**row, "prompt_tokens": 3}, model, exam, Engine())
    with pytest.raises(VerificationError, match="gives another answer than was asked"):
        replay({**row, "answer": "no"}, model, exam, Engine())


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


def test_rows_of_measures_are_refused(samples: Path, tmp_path: Path) -> None:
    table = pq.read_table(samples)
    column = table.schema.get_field_index("scoring")
    measured = table.set_column(column, "scoring", pa.array(["nll"] * table.num_rows))
    pq.write_table(measured, tmp_path / "nll.parquet")
    with pytest.raises(InputError, match="is no question that was asked with token ids"):
        read_row(tmp_path / "nll.parquet", 0)
