"""`contextgraft evaluate` with a mistake: one line, exit code 2, and nothing is left behind."""

from pathlib import Path

import pytest

from .conftest import NEEDLE, OUT, RULER, SKILL, Run

DOWN = ["--backend", "openai", "--url", "http://127.0.0.1:1/v1/completions", "--batch-size", "1"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["model", "--config", "none.yaml", *OUT], "none.yaml: cannot read the configuration"),
        (
            ["model", "--config", "colours.yaml", *OUT],
            "colours.yaml: needle: should be a section with keys",
        ),
        (["model", "--fine-tune", "tune", *OUT], "--fine-tune needs a study"),
        (["replay", "none.parquet", "3", "model"], "none.parquet: cannot read the samples"),
        (["replay", "none.parquet", "-1", "model"], "No such option"),
        (["nowhere", *NEEDLE, *OUT], "nowhere: no such model folder"),
        (["=model", *NEEDLE, *OUT], "the label is empty"),
        (["model", "--suite", "riddles", *OUT], "'riddles' is not one of"),
        (
            ["model", *NEEDLE, "--lengths", "16,x", *OUT],
            "separated by commas, each at least 1; received 'x'",
        ),
        (["model", *NEEDLE, "--lengths", "16,16", *OUT], "expected each number once"),
        (["model", *NEEDLE, "--lengths", "0", *OUT], "at least 1; received '0'"),
        (
            ["model", *NEEDLE, "--depths", "0,101", *OUT],
            "each 0 to 100; received '101' in '0,101'",
        ),
        (["model", *NEEDLE, "--lengths", "4", *OUT], "does not fit the length"),
        (["model", *NEEDLE, "--distractors", "2", *OUT], "too few keys for the needles"),
        (["model", *NEEDLE, "--format", "none.yaml", *OUT], "none.yaml: cannot read"),
        (["model", *OUT], "no --suite given"),
        (["model", "--suite", "needle", *OUT], "--suite needle needs lengths"),
        (["model", "--suite", "perplexity", *OUT], "--suite perplexity needs lengths"),
        (["model", *NEEDLE], "--out is required"),
        (
            ["model", *NEEDLE, "--suite", "divergence", *OUT, "--reference", "other"],
            "no model has the label of --reference",
        ),
        (["model", *NEEDLE, *OUT, "--backend", "abacus"], "'abacus' is not one of"),
        (
            ["model", *NEEDLE, *OUT, "--url", "http://127.0.0.1:1"],
            "--url would have no effect; expected --backend openai; received --backend hf",
        ),
        (["model", *NEEDLE, *OUT, "--model-name", "x"], "--model-name would have no effect; expected"),
        (
            ["model", *NEEDLE, *OUT, *DOWN, "--prefill-chunk", "8"],
            "--prefill-chunk would have no effect; expected --backend hf; received --backend openai",
        ),
        (["model", *NEEDLE, *OUT, "--backend", "openai"], "--backend openai needs the address of a server"),
        (["model", *NEEDLE, *OUT, *DOWN], "http://127.0.0.1:1/v1/completions: the server cannot be used"),
        (["model", "--suite", "divergence", "--text", "none.txt", *OUT], "none.txt: cannot read"),
        (["model", "--suite", "skill", "--skill", "none.yaml", *OUT], "none.yaml"),
        (["model", "--suite", "skill", *OUT], "--suite skill needs a skill"),
        (["model", *SKILL, "--skill-samples", "2", *OUT], "fewer lines than samples"),
        (["model", "--suite", "skill", "--skill", "none.jsonl", *OUT], "none.jsonl: cannot read"),
        (["model", *NEEDLE, "--out", "missing/samples.parquet"], "its folder does not exist"),
        (["model", *NEEDLE, "--out", "model"], "model: is a folder"),
        (["model", *NEEDLE, "--out", "filler.txt"], "filler.txt: is not a table of samples"),
        (["model", *NEEDLE, "--device", "toaster", *OUT], "no such device"),
        (["model", "model", *NEEDLE, *OUT], "two models are labelled 'model'"),
        (["model", "--suite", "needle", "--lengths", "64", *OUT], "lacks its words"),
        (["model", *NEEDLE, *OUT, "--kind", "riddle"], "'riddle' is not one of"),
        (["model", *NEEDLE, *OUT, "--kind", "chain"], "colours"),
        (["model", *NEEDLE, *OUT, "--haystack", "none.txt"], "none.txt: cannot read"),
        (["model", "--suite", "ruler", *OUT], "--suite ruler needs lengths"),
        (["model", *RULER, "--ruler-task", "sums", *OUT], "sums"),
        (["model", *RULER, "--ruler-task", "qa_1", *OUT], "qa_1 needs a data set"),
        (["model", *RULER, "--qa-1", "none.json", *OUT], "none.json"),
        (["model", "--replay", "samples.parquet"], "does not name a sample"),
        (["model", "--replay", "none.parquet:3"], "none.parquet: cannot read the samples"),
        (["model", "model", "model", "--replay", "none.parquet:3"], "a sample is of one model"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    run: Run, model: Path, tmp_path: Path, words: list[str], complaint: str
) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert complaint in err.strip().splitlines()[-1]
    assert "Traceback" not in err
    assert not list(tmp_path.glob("*samples.parquet*"))


def test_the_work_folder_goes_when_nothing_was_done(run: Run, model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").write_bytes(b"short")
    code, _, err = run("model", *NEEDLE, *OUT)
    assert code == 2, err
    assert len(err.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
