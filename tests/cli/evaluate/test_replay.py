"""`contextgraft replay` and `evaluate --replay`: a sample is asked or measured again."""

import json
from pathlib import Path

import pyarrow.parquet as pq
from safetensors.torch import load_file

from contextgraft.evaluation.models import open_eval_model

from .conftest import NEEDLE, OUT, SKILL, WORDS, Run, save_model, save_tokenizer


def test_a_sample_is_asked_again(run: Run, model: Path, tmp_path: Path) -> None:
    code, _, err = run("model", *NEEDLE, *SKILL, *OUT)
    assert code == 0, err
    last = ["--replay", "samples.parquet:8"]
    code, out, err = run("model", "--replay", "samples.parquet:0", "--format", "colours.yaml")
    assert (code, out.splitlines()[-1]) == (0, "the same"), err
    assert out.startswith("model: needle colours, length 16, depth 0 %")
    said = [line for line in err.splitlines() if line.startswith("replay: ")]
    assert said[0].startswith("replay: row 0; first "), err
    assert said[1:] == ["replay: the model is the row's; it is loaded, and the row is computed again"], err
    code, out, err = run("model", *last, "--skill", "polite.jsonl", "--show-prompt")
    assert (code, "the boat" in out) == (0, True)
    prompt = ["replay", "samples.parquet", "8", "model", "--skill", "polite.jsonl", "--prompt-only"]
    code, out, err = run(*prompt)
    assert (code, out.splitlines()) == (0, ["the boat"]), err
    code, out, err = run(*prompt, "--json")
    assert (code, json.loads(out)) == (0, {"prompt": "the boat"}), err
    code, out, err = run("model", *last, "--skill", "polite.jsonl", "--json")
    assert (code, json.loads(out)["agrees"]) == (0, True)
    code, _, err = run("model", *last)
    assert (code, "the row is of a skill" in err) == (2, True)
    table = pq.read_table(tmp_path / "samples.parquet")
    place = table.schema.get_field_index("output")
    pq.write_table(table.set_column(place, "output", [["it was not"] * 9]), tmp_path / "samples.parquet")
    code, out, err = run("model", *last, "--skill", "polite.jsonl")
    assert (code, out.splitlines()[-1]) == (1, "not the same")


def test_the_bytes_that_identify_a_model_are_counted(model: Path) -> None:
    read: list[int] = []
    open_eval_model(None, model, read.append)
    tensors = load_file(model / "model.safetensors")
    assert sorted(read) == sorted(tensor.nbytes for tensor in tensors.values())


def test_a_measured_sample_is_measured_again(run: Run, model: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "other", len(WORDS), seed=5)
    save_tokenizer(tmp_path / "other")
    text = ["--text", "filler.txt"]
    suites = [
        "--suite",
        "perplexity",
        "--perplexity-lengths",
        "20",
        "--documents",
        "2",
        "--suite",
        "divergence",
    ]
    prompts = ["--divergence-length", "8", "--divergence-prompts", "2"]
    code, _, err = run("model", "other", *suites, *prompts, *text, *OUT)
    assert code == 0, err
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    for number, row in enumerate(rows):
        code, out, err = run(row["model"], "model", "--replay", f"samples.parquet:{number}", *text)
        assert (code, out.splitlines()[-1]) == (0, "the same"), err
        assert out.splitlines()[2] == f"recorded  {row['scoring']} {row['score']:.6f}"
    last = ["--replay", f"samples.parquet:{len(rows) - 1}", *text]
    code, _, err = run("other", *last)
    assert (code, "pass that reference model as a second MODEL" in err) == (2, True)
    code, _, err = run("other", "model", *last[:2], "--text", "polite.jsonl")
    assert (code, "the text is not what the row was measured on" in err) == (2, True)
