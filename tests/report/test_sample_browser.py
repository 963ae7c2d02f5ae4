"""Single samples in the page: all of them, or as many of each cell as it holds."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contextgraft.report.data import sample_browser
from contextgraft.report.data.samples import read
from contextgraft.report.statistics.cells import who


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return read([folder]).rows("drill")


def test_all_samples_are_there_with_texts_once(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    synthetic.write(
        tmp_path / "a.parquet", list(synthetic.needle(synthetic.Model("style"), "n", 128, 5, each=2))
    )
    rows = rows_of(tmp_path)
    chosen = sample_browser.choose(rows)
    table = sample_browser.table(chosen, {who(row): ("Other models", "style") for row in rows})
    assert (chosen.total, chosen.each, len(table["columns"]["tune"])) == (10, None, 10)
    assert len(table["texts"]) == len(set(table["texts"]))
    read_back = [table["texts"][place] for place in table["columns"]["output"]]
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
    chosen = sample_browser.choose(rows_of(tmp_path), most=70)
    assert (chosen.total, chosen.each, len(chosen.rows)) == (200, 7, 70)
    assert {row["score"] for row in chosen.rows if row["length"] == 1024} == {0.0}
    assert sample_browser.choose(rows_of(tmp_path), most=3).each == 1


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"status": "ok", "suite": "needle", "score": 1.0}, "right"),
        ({"status": "ok", "suite": "skill", "score": 0.0}, "wrong"),
        ({"status": "ok", "suite": "ruler", "score": 0.5}, "in part"),
        ({"status": "ok", "suite": "perplexity", "score": 1.0}, "measured"),
        ({"status": "failed", "suite": "needle", "score": None}, "failed"),
    ],
)
def test_results_in_a_word(row: dict[str, Any], expected: str) -> None:
    assert sample_browser.result(row) == expected


def test_no_text_ends_the_script_it_stands_in() -> None:
    written = sample_browser.as_json({"output": "</script><script>alert(1)</script><!--"})
    assert "<" not in written
    assert json.loads(written) == {"output": "</script><script>alert(1)</script><!--"}


def test_long_texts_are_cut_and_say_so() -> None:
    assert sample_browser.clipped("x" * 241) == "x" * 240 + "…"
    assert sample_browser.clipped(None) is None
