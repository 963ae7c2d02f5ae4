"""Single samples in the page: all of them, or as many of each cell as it holds."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextgraft.report.data.sample_browser import (
    BrowserSamples,
    clipped,
    largest_rank,
    result,
    sample_table,
    script_json,
    select_samples,
    shell_word,
)
from contextgraft.report.data.samples import read_samples
from contextgraft.report.statistics.cells import model_key


def selected_of(folder: Path, **options: int) -> BrowserSamples:
    return select_samples(read_samples([folder]), **options)


def test_all_samples_are_there_with_texts_once(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    synthetic.write(
        tmp_path / "a.parquet", list(synthetic.needle(synthetic.Model("style"), "n", 128, 5, each=2))
    )
    selected = selected_of(tmp_path)
    rows = selected.rows
    table = sample_table(selected, {model_key(row): ("Other models", "style") for row in rows})
    assert (selected.total, selected.per_cell, len(table["columns"]["tune"])) == (10, None, 10)
    assert len(table["texts"]) == len(set(table["texts"]))
    read_back = [table["texts"][index] for index in table["columns"]["output"]]
    assert sorted(read_back) == sorted(row["output"] for row in rows)
    assert "length" not in table["words"]
    assert set(table["columns"]["length"]) == {128}


def test_too_many_are_the_first_of_every_cell_wrong_ones_first(
    tmp_path: Path, synthetic: SimpleNamespace
) -> None:
    # ten cells of 20, of which five are wholly right and five wholly wrong but for one
    rows = [*synthetic.needle(synthetic.Model("style"), "n", 128, 100)]
    rows += synthetic.needle(synthetic.Model("style"), "n", 1024, 5)
    synthetic.write(tmp_path / "a.parquet", rows)
    selected = selected_of(tmp_path, most=70)
    assert (selected.total, selected.per_cell, len(selected.rows)) == (200, 7, 70)
    assert {row["score"] for row in selected.rows if row["length"] == 1024} == {0.0}
    assert selected_of(tmp_path, most=3).per_cell == 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(0, 40))
def test_the_largest_rank_of_every_cell_that_fits(sizes: list[int], most: int) -> None:
    counts = {rank: sum(size >= rank for size in sizes) for rank in range(1, max(sizes) + 1)}
    fits = [rank for rank in counts if sum(min(size, rank) for size in sizes) <= most]
    assert largest_rank(counts, most) == max(fits, default=1)


def test_a_sample_has_its_file_and_row(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    models = {"rank=8/a b.parquet": "style", "-c.parquet": "code"}
    for name, model in models.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        synthetic.write(tmp_path / name, list(synthetic.needle(synthetic.Model(model), "n", 128, 2)))
    selected = selected_of(tmp_path, most=5)
    assert len(selected.rows) < selected.total
    for row in selected.rows:
        stored = pq.read_table(tmp_path / row["file"]).slice(row["table_row"], 1).to_pylist()[0]
        assert all(stored[name] == row[name] for name in ("depth", "output", "score", "rank", "recipe"))
        assert models[row["file"]] == stored["model"]
    assert list(map(shell_word, sorted(models))) == ["./-c.parquet", "'rank=8/a b.parquet'"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"status": "ok", "suite": "needle", "score": 1.0}, "right"),
        ({"status": "ok", "suite": "skill", "score": 0.0}, "wrong"),
        ({"status": "ok", "suite": "ruler", "score": 0.5}, "in part"),
        ({"status": "ok", "suite": "long_skill", "score": 1.0}, "right"),
        ({"status": "ok", "suite": "long_skill", "score": 0.0}, "wrong"),
        ({"status": "ok", "suite": "repetition", "score": 1.0}, "measured"),
        ({"status": "ok", "suite": "perplexity", "score": 1.0}, "measured"),
        ({"status": "ok", "suite": "latency", "score": 3.5}, "measured"),
        ({"status": "failed", "suite": "needle", "score": None}, "failed"),
    ],
)
def test_results_in_a_word(row: dict[str, Any], expected: str) -> None:
    assert result(row) == expected


def test_no_text_ends_the_script_it_stands_in() -> None:
    written = script_json({"output": "</script><script>alert(1)</script><!--"})
    assert "<" not in written
    assert json.loads(written) == {"output": "</script><script>alert(1)</script><!--"}


def test_long_texts_are_cut_and_say_so() -> None:
    assert clipped("x" * 241) == "x" * 240 + "…"
    assert clipped(None) is None
