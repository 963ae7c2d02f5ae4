"""`contextgraft evaluate` as typed: results on stdout, progress on stderr; plans compute nothing."""

import json
from pathlib import Path

import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .conftest import FORMAT, NEEDLE, OUT, RULER, SKILL, Run, save_model

SEVERAL = """
multi_value:
  question: "of {key} is"
  answer: "{answers}"
  joiner: " "
"""


def test_needle_and_skill_of_two_labelled_models(run: Run, model: Path, tmp_path: Path) -> None:
    code, out, err = run("one=model", "model", *NEEDLE, *SKILL, *OUT, "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert [(row["model"], row["suite"], row["length"], row["n"]) for row in rows] == [
        (label, *rest)
        for label in ("one", "model")
        for rest in (("needle", 16, 4), ("needle", 64, 4), ("skill", None, 1))
    ]
    assert "[1/2] one: 8 needle, 1 skill" in err
    assert pq.read_table(tmp_path / "samples.parquet").num_rows == 18
    code, out, err = run("one=model", "model", *NEEDLE, *SKILL, *OUT)
    assert "[2/2] model: complete already" in err
    assert "95 % interval" in out


def test_measures_follow_and_are_kept(run: Run, model: Path, tmp_path: Path) -> None:
    measures = ["--suite", "perplexity", "--perplexity-lengths", "70", "--documents", "2"]
    measures += ["--suite", "divergence", "--divergence-length", "8", "--divergence-prompts", "3"]
    typed = ["model", *NEEDLE, *measures, *OUT]
    code, out, err = run(*typed, "--json")
    assert code == 0, err
    assert "[1/1] model: 8 needle, 2 perplexity, 3 divergence" in err
    rows = {row["suite"]: row for row in json.loads(out)}
    assert (rows["perplexity"]["task"], rows["perplexity"]["length"]) == ("filler", 70)
    assert (rows["perplexity"]["n"], rows["perplexity"]["unit"]) == (2, "nats")
    assert rows["perplexity"]["low"] <= rows["perplexity"]["mean"] <= rows["perplexity"]["high"]
    assert (rows["divergence"]["mean"], rows["divergence"]["n"]) == (0.0, 3)
    code, out, err = run(*typed)
    assert "complete already" in err
    assert "0.0000 nats" in out


def test_a_plan_says_what_would_be_asked_and_computed(run: Run, model: Path, tmp_path: Path) -> None:
    shared = [*NEEDLE, "--depths", "0,50,100", "--distractors", "1", "--lengths", "64"]
    code, out, err = run("model", *shared, "--suite", "perplexity", "--plan", "--json")
    assert code == 0, err
    needle, perplexity = json.loads(out)
    assert (needle["units"], needle["prompt_tokens"], needle["generated"]) == (6, 6 * 63, 6)
    assert needle["prefilled"] <= needle["prompt_tokens"]
    assert (perplexity["units"], perplexity["prompt_tokens"]) == (8, 8 * 64)
    code, out, err = run("model", *shared, "--plan")
    assert "to prefill" in out
    assert not list(tmp_path.glob("*samples.parquet*"))


def test_a_server_plans_its_own_prefill(run: Run, model: Path) -> None:
    server = ["--backend", "openai", "--url", "http://127.0.0.1:1/v1/completions"]
    code, out, err = run("model", *NEEDLE, *server, "--plan", "--json")
    assert code == 0, err
    assert json.loads(out)[0]["prefilled"] is None


def test_needles_of_several_kinds_and_haystacks(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("you thank the " * 60)
    (tmp_path / "colours.yaml").write_text(FORMAT + SEVERAL)
    kinds = ["--kind", "single", "--kind", "multi_value", "--count", "2"]
    code, out, err = run(
        "model", *NEEDLE, *kinds, "--haystack", "filler.txt", "--haystack", "other.txt", *OUT
    )
    assert code == 0, err
    assert "multi_value, other.txt" in out
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert {(row["kind"], row["haystack"]) for row in rows} == {
        (kind, haystack) for kind in ("single", "multi_value") for haystack in ("filler.txt", "other.txt")
    }
    assert {row["scoring"] for row in rows if row["kind"] == "multi_value"} == {"recall"}


def test_tasks_of_ruler_are_asked_and_asked_again(run: Run, model: Path, tmp_path: Path) -> None:
    code, _, err = run("model", *RULER, "--ruler-task", "vt", *OUT)
    assert (code, "the model's tokenizer lacks its words" in err) == (2, True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path / "model")
    save_model(tmp_path / "model", len(letters))
    tasks = ["--ruler-task", "vt", "--ruler-task", "fwe"]
    code, out, err = run("model", *RULER, *tasks, *OUT)
    assert code == 0, err
    assert "[1/1] model: 2 ruler" in err
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert [(row["task"], row["length"], row["status"]) for row in rows] == [
        ("vt", 4096, "ok"),
        ("fwe", 4096, "ok"),
    ]
    code, out, err = run("model", "--replay", "samples.parquet:1")
    assert (code, out.splitlines()[-1]) == (0, "the same"), err
