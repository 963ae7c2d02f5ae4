"""Rows that nobody expected: each costs one sample without a score; the page is made."""

import math
from collections import Counter
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextgraft.errors import InputError
from contextgraft.evaluation.suites import SUITES
from contextgraft.report.build import build
from contextgraft.report.charts.svg import render, slug
from contextgraft.report.data.clean_rows import NATS, SHARES
from contextgraft.report.data.samples import SampleDatabase, read_samples

ODD: dict[str, dict[str, Any]] = {
    "a depth that is not a number": {"depth": math.nan},
    "an endless depth": {"depth": -math.inf},
    "a score that is not a number": {"score": math.nan},
    "an agreement that is not a number": {"agreement": math.nan},
    "a scale that is not a number": {"scale": math.inf},
    "a huge depth": {"depth": 1e300},
    "no digest": {"model_digest": None},
    "no task": {"task": None},
    "no suite": {"suite": None},
    "no label": {"model": None},
    "an empty digest": {"model_digest": ""},
    "no status": {"status": None},
    "an unknown status": {"status": "Ok\x1b"},
    "a score above 1": {"score": 2.0},
    "a score below 0": {"score": -0.5},
    "no score": {"score": None},
    "a score of a sample without one": {"status": "truncated"},
    "a length below 0": {"length": -1},
    "a length of the largest integer": {"prompt_tokens": -(2**31), "length": 2**31 - 1},
    "a rank below 0": {"rank": -4},
    "tokens below 0": {"tokens": -(2**31)},
    "nats over no tokens": {"tokens": None, "suite": "perplexity", "score": 3.0},
    "nats beyond measure": {"score": 1000.0, "suite": "perplexity", "tokens": 5},
    "key tokens that are none": {"tokens": 0, "suite": "long_perplexity", "score": 3.0},
    "nats of key tokens below 0": {"score": -1.0, "suite": "long_perplexity", "tokens": 5},
    "a long skill above 1": {"score": 5.0, "suite": "long_skill"},
    "a repetition above 1": {"score": 1e14, "suite": "repetition"},
    "a repetition below 0": {"score": -0.1, "suite": "repetition"},
    "an agreement above 1": {"agreement": 1.5, "suite": "divergence", "score": 0.1, "tokens": 5},
    "no agreement": {"agreement": None, "suite": "divergence", "score": 0.1, "tokens": 5},
}
TEXTS = [
    "a\x1bb",
    "a\0b",
    "a\u202eb",
    "a\ufffeb",
    "a\u200bb",
    "\u200f\u2067a",
    "a\ufeff\U000e0041",
    "\U0001f600" * 50,
    "x" * 300,
    "\u6f22" * 300,
    "",
    "..",
]


IDENTITY = {"model_digest", "target_digest", "donor_digest", "rank", "scale", "control"}  # of a graft
PROMPTS = {"suite", "task", "kind", "haystack", "distractors", "chat", "recipe", "reference_digest"}
REFUSALS = {"two different grafts": IDENTITY, "two sets of prompts": PROMPTS | IDENTITY}


def study(synthetic: SimpleNamespace) -> list[dict[str, Any]]:
    grafted = (synthetic.graft("style", 4, scale=scale) for scale in (0.0, 1.0))
    models = [synthetic.Model("base"), synthetic.Model("style"), *grafted]
    rows = [row for model in models for row in synthetic.needle(model, "n", 128, 5, each=2)]
    return [*rows, *synthetic.compared(models[-1], 0.1)]


@pytest.mark.parametrize("name", ODD)
def test_an_invalid_row_is_a_sample_without_a_score(
    tmp_path: Path, synthetic: SimpleNamespace, name: str
) -> None:
    rows = study(synthetic)
    rows[-11] |= ODD[name]  # the last needle of the graft
    database = read_samples([synthetic.write(tmp_path / "a.parquet", rows)])
    samples = database.rows("sample_browser", per_cell=None)
    assert len(samples) == len(rows)
    bad = [sample for sample in samples if sample["status"] != "ok"]
    assert [(sample["status"], sample["score"]) for sample in bad] == [("failed", None)]
    assert "invalid row: " in bad[0]["reason"]
    assert next(iter(ODD[name])) in bad[0]["reason"]


def test_every_suite_has_a_range_of_scores() -> None:
    assert sorted((*SHARES, *NATS)) == sorted(SUITES)


@pytest.mark.parametrize("index", [None, -1])
def test_samples_without_an_index_are_not_copies_of_each_other(
    tmp_path: Path, synthetic: SimpleNamespace, index: int | None
) -> None:
    def count(rows: list[dict[str, Any]]) -> int:
        groups = read_samples([synthetic.write(tmp_path / "a.parquet", rows)]).rows("score_groups")
        return sum(row["n"] + row["failed"] for row in groups)

    rows = study(synthetic)
    assert count([{**row, "sample_index": index, "seed": None} for row in rows]) == count(rows)


@pytest.mark.parametrize("text", TEXTS)
def test_names_are_short_and_without_control_characters(
    tmp_path: Path, synthetic: SimpleNamespace, text: str
) -> None:
    rows = [{**row, "model": text, "task": text, "target_name": text} for row in study(synthetic)]
    database = read_samples([synthetic.write(tmp_path / "a.parquet", rows)])
    for row in database.rows("labels"):
        assert len(row["label"]) <= 80
        assert row["label"].isprintable()


TEXT = (
    st.sampled_from([None, "", "x", "refused", "NaN", "\0", "a\x1bb", "\u202e", "9" * 400, "{}", "[1]"])
    | st.text()
)
FLOAT = st.floats() | st.sampled_from([None, 0.0, 1.0, 2.0, -1.0, 1e300, -1e15])
VALUES = {"string": TEXT, "double": FLOAT}  # the others are integers
FEW = settings(derandomize=True, database=None, deadline=None, max_examples=12)
QUERIES = sorted(
    path.name.removesuffix(".sql") for path in files("contextgraft.report").joinpath("sql").iterdir()
)


@st.composite
def changes(draw: st.DrawFn, fields: list[tuple[str, str]]) -> dict[str, Any]:
    """Any values in one to three columns."""
    chosen = draw(st.lists(st.sampled_from(fields), min_size=1, max_size=3, unique=True))
    bits = {name: 63 if kind == "int64" else 31 for name, kind in chosen}
    return {
        name: draw(VALUES.get(kind, st.none() | st.integers(-(2 ** bits[name]), 2 ** bits[name] - 1)))
        for name, kind in chosen
    }


def counted(database: SampleDatabase) -> Counter[str]:
    """Samples as text."""
    return Counter(map(repr, database.rows("sample_browser", per_cell=None)))


def not_pooled(error: InputError, change: dict[str, Any]) -> None:
    """A row that is of another model or other prompts by its own columns, which the report does not pool."""
    assert any(text in str(error) and columns & change.keys() for text, columns in REFUSALS.items())


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "amount", [FEW, pytest.param(settings(FEW, max_examples=1000), marks=pytest.mark.slow)]
)
def test_any_row_changes_no_other(tmp_path: Path, synthetic: SimpleNamespace, amount: settings) -> None:
    rows = study(synthetic)
    before = counted(read_samples([synthetic.write(tmp_path / "a.parquet", rows)]))
    fields = [(field.name, str(field.type)) for field in synthetic.schema]

    @amount
    @given(changes(fields), st.integers(0, len(rows) - 1))
    def run(change: dict[str, Any], index: int) -> None:
        changed = [*rows[:index], {**rows[index], **change}, *rows[index + 1 :]]
        try:
            database = read_samples([synthetic.write(tmp_path / "a.parquet", changed)])
        except InputError as error:
            not_pooled(error, change)
            return
        after = counted(database)
        assert (before - after).total() <= 1
        assert (after - before).total() <= 1
        for query in QUERIES:
            if query not in ("models", "placed", "cell_ranks", "sample_browser"):
                database.rows(query)

    run()


def test_integers_beyond_the_columns_are_defects(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = study(synthetic)
    table = pa.Table.from_pylist(rows, schema=synthetic.schema)
    at = synthetic.schema.names.index("length")
    lengths = pa.array([2**64 - 1, *table.column("length").to_pylist()[1:]], pa.uint64())
    pq.write_table(table.set_column(at, "length", lengths), tmp_path / "a.parquet")
    bad = [
        row for row in read_samples([tmp_path]).rows("sample_browser", per_cell=None) if row["status"] != "ok"
    ]
    assert [row["reason"] for row in bad] == ["invalid row: length"]


def test_the_page_is_made_whatever_single_rows_hold(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = study(synthetic)
    for index, change in enumerate(ODD.values()):
        rows[10 + index] = {**rows[10 + index], **change}
    for text in TEXTS:
        rows += synthetic.needle(synthetic.Model(text or "empty"), "n", 128, 1, each=1)
    report = build([synthetic.write(tmp_path / "a.parquet", rows)], [], "title \x1b", None)
    assert "invalid row" in report.texts["index.html"]
    assert all(len(Path(name).name.encode()) <= 255 for name in (*report.texts, *report.pictures))


@pytest.mark.parametrize("text", TEXTS)
def test_a_chart_draws_any_text(text: str) -> None:
    point = {"data": {"values": [{"x": text, "y": 1}]}, "mark": "point"}
    drawn = render({**point, "title": text, "encoding": {"x": {"field": "x"}, "y": {"field": "y"}}}, text)
    assert drawn.startswith("<svg ")
    assert "\x1b" not in drawn


def test_long_titles_have_short_and_different_file_names() -> None:
    assert slug("Style r4") == "style_r4"
    assert len({slug("x" * 300 + end) for end in "ab"}) == 2
    assert len(slug("x" * 300)) < 80
