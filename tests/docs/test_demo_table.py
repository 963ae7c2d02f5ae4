"""The numbers of docs/demo.md are those of the rows in docs/data/demo.parquet, with Wilson's intervals."""

import re
from typing import Any

import pyarrow.parquet as pq
import pytest

from .tables import ROOT, page, table, wilson

PAGE = page("demo")
ROWS: list[dict[str, Any]] = pq.read_table(ROOT / "docs/data/demo.parquet").to_pylist()
COLUMNS = (("needle", 128), ("needle", 1024), ("skill", None))


def scores(model: str, suite: str, length: int | None, split: str | None = None) -> list[bool]:
    found = [
        row["score"] == 1
        for row in ROWS
        if (row["model"], row["suite"]) == (model, suite)
        and length in (None, row["length"])
        and split in (None, row["split"])
    ]
    assert found
    return found


def cell(values: list[bool], *, interval: bool = True) -> str:
    share = f"{100 * sum(values) / len(values):.1f}".removesuffix(".0")
    low, high = wilson(sum(values), len(values))
    return f"{share} [{low:.0f}, {high:.0f}]" if interval else share


def labels(name: str) -> list[str]:
    """The models of a row of the table."""
    tune, _, what = name.replace("**", "").replace(" alone", "").partition(", ")
    if what.startswith("graft"):
        return [f"{tune}-s1-{rank}" for rank in re.findall(r"r\d+", what)]
    return [f"{tune}-s1-theta-only" if what else {"donor": "donor-s1"}.get(tune, tune)]


TABLE = table(PAGE, "model")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
def test_a_row_of_the_table(row: list[str]) -> None:
    name, *shown = row
    for text, (suite, length) in zip(shown, COLUMNS, strict=True):
        if text:
            expected = " / ".join(
                cell(scores(model, suite, length), interval="[" in text) for model in labels(name)
            )
            assert text.replace("**", "") == expected


def test_every_model_has_its_row() -> None:
    shown = {model for row in TABLE for model in labels(row[0])}
    models = {row["model"] for row in ROWS}
    assert models - shown == {f"{tune}-s1-r1" for tune in ("facts", "style", "sure", "zh")}
    assert {row["status"] for row in ROWS} == {"ok"}


def test_what_the_page_judges() -> None:
    """On the prompts with which the rank was not chosen."""
    judged = re.findall(r"`(\w+)` \(rank (\d+): ([\d.]+) % (\[\d+, \d+\])\)", PAGE)
    assert {tune for tune, *_ in judged} == {"facts", "style", "sure", "zh"}
    for tune, rank, share, interval in judged:
        values = scores(f"{tune}-s1-r{rank}", "needle", 1024, "report")
        assert (len(values), cell(values)) == (75, f"{share} {interval}")


def test_bold_is_the_smallest_rank_within_the_limits() -> None:
    for tune in ("facts", "style", "sure", "zh"):
        passed = [
            rank
            for rank in (1, 4, 32)
            if sum(scores(f"{tune}-s1-r{rank}", "needle", 1024)) >= 95
            and sum(scores(f"{tune}-s1-r{rank}", "skill", None)) >= sum(scores(tune, "skill", None)) - 4
        ]
        (text,) = [row[2] for row in TABLE if row[0].startswith(f"{tune}, graft")]
        place = text.split(" / ")[(4, 32).index(passed[0])]
        assert place.startswith("**")
        assert text.count("**") == 2
