"""Every query of docs/queries.md runs as it stands, and says what the package says."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from contextgraft.evaluation.summary import summarise
from contextgraft.report.build import build
from contextgraft.report.data.samples import read_samples
from contextgraft.report.statistics.paired import PairCounts, pool_pairs, skill_pairs
from contextgraft.stats import effective_length, wilson

PAGE = Path(__file__).resolve().parents[2] / "docs/queries.md"
QUERIES = dict(re.findall(r"```sql\n(?:-- ([\w ]+)\n)?(.*?)```", PAGE.read_text(), re.DOTALL))
COLUMNS = {
    "scores": "model suite task kind haystack distractors scoring length depth n p unscored z low high",
    "pairs": "model rank scale task n won lost points",
    "effective length": "model effective_length fewest_tasks means",
    "smallest rank": "target_name task haystack distractors length rank ranks",
    "unscored": "model suite task length status samples reason",
    "cost": "model suite prompts texts percent",
    "perplexity": "model task length position n nats perplexity",
    "divergence": "model task n nats same_token",
    "wrong": "filename row model suite task length depth answer output",
}

RunQuery = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def run_query(study: Path, monkeypatch: pytest.MonkeyPatch) -> RunQuery:
    """The rows of one of the page's queries."""
    monkeypatch.chdir(study)

    def run(name: str) -> list[dict[str, Any]]:
        answer = duckdb.connect().execute(QUERIES[name])
        columns = [column[0] for column in answer.description]
        return [dict(zip(columns, row, strict=True)) for row in answer.fetchall()]

    return run


def test_the_functions_that_the_page_names_are_there() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, PAGE.name, "exec"), names)
    assert names["low"] < (1 - 3) / 100 < names["high"]
    assert names["p"] == pytest.approx(0.625)


def test_every_query_of_the_page_has_a_name_and_columns_that_are_expected() -> None:
    assert set(QUERIES) == set(COLUMNS)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_query_runs_and_finds_something(name: str, run_query: RunQuery) -> None:
    rows = run_query(name)
    assert rows
    assert list(rows[0]) == COLUMNS[name].split()


def test_scores_are_those_of_the_summary_with_wilsons_interval(run_query: RunQuery, study: Path) -> None:
    cells = run_query("scores")
    assert {row["n"] for row in cells} == {10}
    for row in cells:
        assert (row["low"], row["high"]) == pytest.approx(wilson(row["p"] * row["n"], row["n"]), abs=1e-12)
    for score in summarise(pq.read_table(study / "samples/style.parquet")):
        same = ("model", "suite", "task", "kind", "haystack", "length")
        own = [row for row in cells if all(row[name] == getattr(score, name) for name in same)]
        if score.unit == "share":
            assert sum(row["n"] for row in own) == score.n
            assert sum(row["p"] * row["n"] for row in own) / score.n == pytest.approx(score.mean)


def test_pairs_are_those_of_the_report(run_query: RunQuery) -> None:
    queried = {(row["rank"], row["scale"]): row for row in run_query("pairs")}
    by_split: dict[tuple[int | None, float | None], list[PairCounts]] = {}
    for each in map(skill_pairs, read_samples([Path("samples")]).rows("pairs")):
        rank = 8 if each.model.scale == 0 else each.model.rank
        by_split.setdefault((rank, each.model.scale), []).append(each.pairs)
    reported = {key: pool_pairs(pairs) for key, pairs in by_split.items()}
    assert queried.keys() == reported.keys()
    for key, pairs in reported.items():
        row = queried[key]
        assert (row["n"], row["won"], row["lost"]) == (pairs.n, pairs.wins, pairs.losses)
        assert pairs.difference is not None
        assert row["points"] == pytest.approx(pairs.difference.points)
    assert any(row["lost"] for row in queried.values())


def test_effective_length_is_that_of_stats(run_query: RunQuery, study: Path) -> None:
    scores: dict[str, dict[int, dict[str, list[float]]]] = {}
    for row in pq.read_table(study / "samples/style.parquet").to_pylist():
        if row["suite"] == "ruler":
            by_task = scores.setdefault(row["model"], {}).setdefault(row["length"], {})
            by_task.setdefault(row["task"], []).append(100 * row["score"])
    expected = {
        model: effective_length(
            {n: {task: sum(s) / len(s) for task, s in tasks.items()} for n, tasks in lengths.items()}
        ).length
        for model, lengths in scores.items()
    }
    assert {row["model"]: row["effective_length"] for row in run_query("effective length")} == expected
    assert set(expected.values()) == {128, 1024}


def test_the_smallest_rank_is_the_reports(run_query: RunQuery) -> None:
    [row] = run_query("smallest rank")
    targets = build([Path("samples")], [], "title", None).summary["fine_tunes"]
    [verdict] = [target["verdict"] for target in targets.values()]
    assert verdict["rank"] == row["rank"] == 8  # r2 misses needles
    assert verdict["outcome"] == "context only"  # r8 loses a skill prompt that did not choose


def test_a_rank_that_does_not_hold_on_the_other_prompts_is_seen(
    run_query: RunQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(QUERIES, "smallest rank", QUERIES["smallest rank"].replace("'choose'", "'report'"))
    [row] = run_query("smallest rank")
    assert row["rank"] == 16


def test_texts_that_are_shared_are_counted_once(run_query: RunQuery) -> None:
    costs = {row["suite"]: row for row in run_query("cost") if row["model"] == "r8"}
    assert costs["needle"]["prompts"] == 3 * costs["needle"]["texts"] == 3 * 10 * (128 + 1024)
    assert costs["perplexity"]["prompts"] == 2 * 128
