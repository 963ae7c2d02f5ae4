"""Scores of lm-evaluation-harness on the page and in the summary."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from contextgraft.errors import InputError
from contextgraft.formats.find_samples import PAGE
from contextgraft.report.build import build
from contextgraft.report.data.lm_eval_results import LmEvalScore, find_lm_eval_files, read_lm_eval_results
from contextgraft.report.data.lm_eval_samples import find_samples_by_task, read_lm_eval_pairs
from contextgraft.report.tables.lm_eval import MOST_ROWS, lm_eval_tables

GSM8K = {
    "alias": "gsm8k",
    "exact_match,strict-match": 0.5,
    "exact_match_stderr,strict-match": 0.05,
    "exact_match,flexible-extract": 0.75,
    "exact_match_stderr,flexible-extract": "N/A",
}


def written(path: Path, results: Any, **keys: Any) -> Path:
    content = {
        "results": results,
        "n-samples": {"gsm8k": {"original": 1319, "effective": 100}},
        "higher_is_better": {"gsm8k": {"exact_match": True}},
        "model_name": "people/style",
        **keys,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_every_metric_is_a_row(tmp_path: Path) -> None:
    written(tmp_path / "people__style" / "results_2026-01-01T00-00-00.json", {"gsm8k": GSM8K})
    first, second = read_lm_eval_results(find_lm_eval_files([tmp_path, tmp_path]))
    file = "people__style/results_2026-01-01T00-00-00.json"
    name = "exact_match, strict-match"
    assert first == LmEvalScore(file, "people/style", "gsm8k", name, 0.5, 0.05, 100, True)
    assert (second.value, second.stderr) == (0.75, None)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"acc,none": float("nan")}, "value NaN"),
        ({"acc,none": float("inf")}, "value Infinity"),
        ({"acc,none": "high"}, 'value "high"'),
        ({"acc,none": True}, "value true"),
        ({"acc,none": 0.5, "acc_stderr,none": -1}, "stderr -1"),
        ("none", "not a table"),
    ],
)
def test_one_bad_row_is_refused_and_the_others_stay(values: Any, reason: str, tmp_path: Path) -> None:
    path = written(tmp_path / "results.json", {"odd": values, "gsm8k": GSM8K})
    odd, *others = read_lm_eval_results(find_lm_eval_files([path]))
    assert odd.value is None
    assert reason in odd.reason
    assert [score.value for score in others] == [0.5, 0.75]


def test_names_of_others_are_short_and_visible(tmp_path: Path) -> None:
    task = "a\u202eb\n" + "x" * 200
    path = written(tmp_path / "r.json", {task: {"acc,none": 1}}, model_name=["<b>", 3], **{"n-samples": 7})
    (score,) = read_lm_eval_results(find_lm_eval_files([path]))
    assert score.task.startswith("a\ufffdb\ufffdxx")
    assert len(score.task) == 80
    assert (score.n, score.higher_is_better) == (None, None)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"results": {}}', '{"results": [1]}', "[" * 500])
def test_a_file_of_another_kind_is_one_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"results\.json"):
        read_lm_eval_results(find_lm_eval_files([path]))


def test_nothing_to_read_is_one_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="lm_eval run --output_path"):
            read_lm_eval_results(find_lm_eval_files([path]))


def test_the_page_and_the_summary_have_them(results: Path, tmp_path: Path) -> None:
    bad = {"acc,none": float("nan")}
    path = written(tmp_path / "results.json", {"gsm8k": GSM8K, "<i>odd": bad})
    report = build([results / "style.parquet"], [], "Title", None, lm_eval=[path])
    section = re.search(r'<section id="lm-eval".*?</section>', report.texts[PAGE], re.DOTALL)
    assert section is not None
    for text in ("people/style", "exact_match, strict-match", "<strong>0.5</strong>", "0.05", "&lt;i&gt;odd"):
        assert text in section[0]
    assert "invalid row: value NaN" in section[0]
    rows = {(row["task"], row["metric"]): row for row in report.summary["lm_eval"]}
    assert rows["gsm8k", "exact_match, strict-match"]["n"] == 100
    assert rows["<i>odd", "acc"]["value"] is None
    assert "lm_eval" not in build([results / "style.parquet"], [], "Title", None).summary


def test_a_table_has_an_end() -> None:
    score = LmEvalScore("f", "m", "t", "acc", 1.0, None, None, None)
    (table,) = lm_eval_tables([score] * (MOST_ROWS + 1))
    assert len(table.sections[0].rows) == MOST_ROWS
    assert "The first 10,000 of 10,001 rows." in table.note


@pytest.mark.slow
def test_a_file_that_lm_eval_wrote(tmp_path: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    data = tmp_path / "data.json"
    data.write_text("\n".join(json.dumps({"text": f"{n} is", "label": n % 2}) for n in range(20)))
    (tmp_path / "parity.yaml").write_text(
        f"""task: parity
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{text}}}}"
output_type: multiple_choice
doc_to_choice: [even, odd]
doc_to_target: label
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
    tracker.general_config_tracker.log_experiment_args("dummy", "", "", "", "")
    found = simple_evaluate(
        model="dummy", tasks=["parity"], task_manager=manager, evaluation_tracker=tracker, limit=10
    )
    value = found["results"]["parity"]["acc,none"]
    tracker.save_results_aggregated(found)
    tracker.save_results_samples("parity", found["samples"]["parity"])
    samples = find_samples_by_task(tmp_path / "out")
    (pairs,) = read_lm_eval_pairs([(samples, samples)])
    assert (pairs.task, pairs.n, pairs.before, pairs.after) == ("parity", 10, value, value)
    (score,) = read_lm_eval_results(find_lm_eval_files([tmp_path / "out"]))
    assert (score.task, score.metric, score.value, score.n) == ("parity", "acc", value, 10)
    assert score.stderr == found["results"]["parity"]["acc_stderr,none"]
    assert score.higher_is_better
