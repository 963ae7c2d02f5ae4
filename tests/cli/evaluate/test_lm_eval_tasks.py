"""A skill that is a task of lm-eval: evaluated if it is trusted, and otherwise nothing of it runs."""

import json
from pathlib import Path

import pytest

from .conftest import OUT, Run

TASK = """
task: ours
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["."]
  max_gen_toks: 2
metric_list:
  - metric: exact_match
"""
EVIL_TASK = """
task: evil
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/data.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{ cycler.__init__.__globals__.os.system('touch {folder}/PWNED') }}}}"
doc_to_target: {target}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def test_a_skill_may_be_a_task_of_lm_eval(run: Run, model: Path, tmp_path: Path) -> None:
    rows = [{"question": "the boat", "answer": "thank you"}, {"question": "the cave", "answer": "red"}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "polite.yaml").write_text(TASK.format(data=tmp_path / "data.jsonl"))
    code, out, err = run(
        "model", "--suite", "skill", "--skill", "polite.yaml", "--trust-tasks", *OUT, "--json"
    )
    assert code == 0, err
    assert [(row["suite"], row["task"], row["n"]) for row in json.loads(out)] == [("skill", "ours", 2)]


@pytest.mark.parametrize("name", ["t.yaml", "t.YML", "./t.yaml:exact_match", "tasks/t.yaml", "tasks"])
@pytest.mark.parametrize("more", [["--plan"], OUT, ["--replay", "samples.parquet:0"]])
def test_a_task_file_runs_nothing_unless_it_is_trusted(
    run: Run, model: Path, tmp_path: Path, name: str, more: list[str]
) -> None:
    (tmp_path / "data.jsonl").write_text('{"a": "b"}\n')
    (tmp_path / "tasks").mkdir()
    (tmp_path / "utils.py").write_text("open('PWNED', 'w')\ndef f(doc): return ''\n")
    text = EVIL_TASK.format(folder=tmp_path, target="!function utils.f")
    for path in ("t.yaml", "t.YML", "tasks/t.yaml"):
        (tmp_path / path).write_text(text)
    code, _, err = run("model", "--suite", "skill", "--skill", name, "--skill-samples", 1, *more)
    assert code == 2
    assert not (tmp_path / "PWNED").exists()
    if "--replay" not in more:
        assert "--trust-tasks" in err or "is not a skill file" in err
