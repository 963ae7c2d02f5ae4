"""Samples of lm-evaluation-harness: a graft against its fine-tune, document by document."""

import json
import re
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from contextgraft.errors import InputError
from contextgraft.formats.find_samples import PAGE
from contextgraft.report.build import build
from contextgraft.report.data.document_pairs import DocumentPairs, compared
from contextgraft.report.data.lm_eval_samples import find_samples_by_task, read_lm_eval_pairs
from contextgraft.report.statistics.clusters import bootstrap_mean
from contextgraft.stats import mcnemar, newcombe_paired

DATE = "2026-01-01T00-00-00.000000"
RIGHT = [1.0] * 6 + [0.0] * 4


def row(document: int, score: Any, **changes: Any) -> dict[str, Any]:
    """A line as lm-eval 0.4.13 writes it; a change to None removes the key."""
    columns = {
        "doc_id": document,
        "doc": {"text": f"{document} is"},
        "target": "0",
        "arguments": {"gen_args_0": {"arg_0": f"{document} is"}},
        "resps": [["a"]],
        "filtered_resps": ["a"],
        "filter": "none",
        "metrics": ["acc"],
        "doc_hash": f"d{document}",
        "prompt_hash": f"p{document}",
        "target_hash": "t",
        "acc": score,
    }
    return {name: value for name, value in (columns | changes).items() if value is not None}


def run_of(
    folder: Path, rows: list[dict[str, Any]], task: str = "parity", name: str = "people/style"
) -> Path:
    """The folder of one run, with its result file."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(line) + "\n" for line in rows)
    (folder / f"samples_{task}_{DATE}.jsonl").write_text(lines)
    results = {"results": {task: {"acc,none": 0.5}}, "model_name": name}
    (folder / f"results_{DATE}.json").write_text(json.dumps(results))
    return folder


def pairs_of(*folders: Path) -> tuple[DocumentPairs, ...]:
    first, second = map(find_samples_by_task, folders)
    return read_lm_eval_pairs([(first, second)])


def pair(path: Path, before: list[Any], after: list[Any]) -> DocumentPairs:
    """The one pair of two runs; the second has its documents in another order."""
    tune = run_of(path / "tune", [row(index, score) for index, score in enumerate(before)])
    graft = run_of(
        path / "graft", [row(index, score) for index, score in enumerate(after)][::-1], name="graft"
    )
    (item,) = pairs_of(tune, graft)
    return item


def test_right_and_wrong_answers_have_newcombes_interval(tmp_path: Path) -> None:
    item = pair(tmp_path, RIGHT, [0.0, 0.0, *RIGHT[2:9], 1])
    assert (item.fine_tune, item.graft, item.task, item.metric) == ("people/style", "graft", "parity", "acc")
    assert (item.n, item.before, item.after) == (10, 0.6, 0.5)
    assert item.interval == pytest.approx(newcombe_paired(4, 1, 2, 3))
    assert item.p_value == mcnemar(1, 2)


def test_graded_scores_have_a_bootstrap_interval(tmp_path: Path) -> None:
    before, after = [0.25, 0.5, 0.0, 1.0] * 5, [0.5] * 20
    item = pair(tmp_path, before, after)
    assert item.p_value is None
    assert item.interval == bootstrap_mean([0.25, 0.0, 0.5, -0.5] * 5)
    assert item.interval is not None
    assert -0.5 <= item.interval[0] < item.difference < item.interval[1] <= 0.5
    # of a few documents the bootstrap is too narrow: Student's t quantile for three degrees of freedom
    few = compared(("a", "b", "task", "f1"), before[:4], after[:4])
    half = 3.182446 * stdev([0.25, 0.0, 0.5, -0.5]) / 2
    assert few.interval == pytest.approx((0.0625 - half, 0.0625 + half), abs=1e-5)
    assert bootstrap_mean([0.5, 0.5]) is None


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"doc_hash": "other"}, "1 documents are not those of"),
        ({"prompt_hash": "other"}, "1 prompts are not those of"),
        ({"doc_id": 77}, "2 documents are not those of"),
    ],
)
def test_other_documents_are_refused_with_both_files(
    changed: dict[str, Any], what: str, tmp_path: Path
) -> None:
    tune = run_of(tmp_path / "tune", [row(index, 1.0) for index in range(3)])
    graft = run_of(tmp_path / "graft", [row(0, 1.0), row(1, 1.0, **changed), row(2, 0.0)])
    with pytest.raises(InputError, match=what) as error:
        pairs_of(tune, graft)
    assert all(str(folder / f"samples_parity_{DATE}.jsonl") in str(error.value) for folder in (tune, graft))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(0, 1.0, doc_hash=None)],
        [row(0, 1.0, doc_id="0")],
        [row(0, 1.0, metrics="acc")],
        [row(0, 1.0), row(0, 1.0)],
        [row(0, 1.0), row(0, 1.0, filter="strict", doc_hash="other")],
        [["a list"]],
    ],
)
def test_what_is_not_a_sample_is_one_error(rows: list[Any], tmp_path: Path) -> None:
    run = run_of(tmp_path / "tune", rows)
    with pytest.raises(InputError, match="is not a sample of lm-evaluation-harness"):
        pairs_of(run, run)


def test_rows_that_cannot_be_paired_say_why(tmp_path: Path) -> None:
    tune = run_of(tmp_path / "tune", [row(0, [1, 2]), row(0, 1.0, filter="strict"), row(1, 1.0)])
    run_of(tune, [row(0, 1.0)], task="a_task_of_one")
    graft = run_of(tmp_path / "graft", [row(0, 1.0), row(1, float("nan"))])
    reasons = {(item.task, item.metric): item.reason for item in pairs_of(tune, graft)}
    assert reasons == {
        ("a_task_of_one", ""): "only one of the two models has samples of it",
        ("parity", "acc"): "a score is not a number",
        ("parity", "acc, strict"): "not of the same documents",
    }


def test_several_runs_and_no_runs_are_one_error(tmp_path: Path) -> None:
    run = run_of(tmp_path / "tune", [row(0, 1.0)])
    (run / "samples_parity_2026-01-02T00-00-00.000000.jsonl").write_text(json.dumps(row(0, 1.0)))
    with pytest.raises(InputError, match="two files of samples of the task parity"):
        find_samples_by_task(run)
    for path in (tmp_path / "none", tmp_path / "tune" / "samples"):
        with pytest.raises(InputError, match="log_samples"):
            find_samples_by_task(path)


def test_the_page_and_the_summary_have_the_pairs(results: Path, tmp_path: Path) -> None:
    tune = run_of(tmp_path / "tune", [row(index, score) for index, score in enumerate(RIGHT)])
    graft = run_of(tmp_path / "graft", [row(index, 1) for index in range(10)], name="<b>graft")
    report = build([results / "base.parquet"], [], "t", None, lm_eval_pairs=[(tune, graft)])
    section = re.search(r'<section id="lm-eval".*?</section>', report.texts[PAGE], re.DOTALL)
    assert section is not None
    assert "&lt;b&gt;graft against people/style" in section[0]
    assert "<strong>+0.4</strong>" in section[0]
    (item,) = report.summary["lm_eval_pairs"]
    assert (item["n"], item["difference"], item["graft_mean"]) == (10, 0.4, 1.0)
    assert item["low"] < 0.4 < item["high"]
    assert item["p"] == mcnemar(4, 0)
