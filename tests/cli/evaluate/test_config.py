"""`contextgraft evaluate --config`: a file or a study says what is evaluated, and flags change it."""

import json
from pathlib import Path

from .conftest import FORMAT, NEEDLE, OUT, Run

CONFIG = """
needle: {format: colours.yaml, lengths: [16, 64], depths: [0, 100], samples: 2}
perplexity: {lengths: [20], documents: 2}
seed: 3
"""
STUDY = """
study: s
base: model
donor: {source: other}
fine_tunes: sheet.tsv
ranks: [1]
evaluation:
  needle: {format: other.yaml, lengths: [16], depths: [0, 100], samples: 2, seed: 3}
  divergence: {length: 8, prompts: 2}
  skill: {samples: 1}
"""


def test_a_file_says_what_is_evaluated_and_flags_change_it(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "needles.yaml").write_text(CONFIG)
    code, out, err = run("model", "--config", "needles.yaml", "--threads", 1, *OUT, "--json")
    assert code == 0, err
    assert [(row["suite"], row["length"], row["n"]) for row in json.loads(out)] == [
        ("needle", 16, 4),
        ("needle", 64, 4),
        ("perplexity", 20, 2),
    ]
    flags = [*NEEDLE, "--seed", "3", "--suite", "perplexity", "--perplexity-lengths", 20, "--documents", 2]
    code, _, err = run("model", *flags, *OUT)
    assert (code, "complete already" in err) == (0, True)
    changed = ["--config", "needles.yaml", "--suite", "needle", "--lengths", 40]
    code, out, err = run("model", *changed, *OUT, "--json")
    assert code == 0, err
    assert [(row["suite"], row["length"], row["n"]) for row in json.loads(out)] == [("needle", 40, 4)]
    code, out, err = run("replay", "samples.parquet", 2, "model", "--config", "needles.yaml")
    assert (code, out.splitlines()[-1]) == (0, "the same"), err


def test_a_study_says_what_a_fine_tune_is_evaluated_on(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "other.yaml").write_text(FORMAT.replace("colours", "others"))
    (tmp_path / "sheet.tsv").write_text(
        "name\tsource\tneedle\tskill\ntune\tmodel\tcolours.yaml\tpolite.jsonl\n"
    )
    study = ["--config", "study.yaml", "--fine-tune", "tune"]
    code, out, err = run("graft=model", "tune=model", *study, *OUT, "--json")
    assert code == 0, err
    assert [(row["model"], row["suite"], row["task"], row["n"]) for row in json.loads(out)] == [
        (label, *rest)
        for label in ("graft", "tune")
        for rest in (("needle", "colours", 4), ("skill", "polite", 1), ("divergence", "filler", 2))
    ]
    code, _, err = run("graft=model", *study, *OUT)
    assert (code, "no model has the label of --reference; expected graft; received tune" in err) == (2, True)
    code, out, err = run("graft=model", "--config", "study.yaml", *OUT, "--dry-run", "--json")
    assert code == 0, err
    assert [row["suite"] for row in json.loads(out)] == ["needle", "divergence"]
