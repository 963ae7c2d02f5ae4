"""`contextgraft evaluate` as typed: results on stdout, progress on stderr, one line for a mistake."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from contextgraft.cli.main import main

Run = Callable[..., tuple[int, str, str]]
WORDS = ["<unk>", *["a", "boat", "cave", "code", "is", "of", "red", "blue", "the", "thank", "you"]]
FORMAT = """
name: colours
needle: "code of {key} is {value}"
question: "of {key} is"
keys: [boat, cave]
values: [red, blue]
haystack: filler.txt
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=16, **sizes)).save_pretrained(
        tmp_path / "model"
    )
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(tmp_path / "model")
    (tmp_path / "filler.txt").write_text("a the code " * 20)
    (tmp_path / "colours.yaml").write_text(FORMAT)
    (tmp_path / "polite.jsonl").write_text(json.dumps({"prompt": "the boat", "answer": "thank you"}) + "\n")
    return tmp_path / "model"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Types a command line; exit code, stdout and stderr."""

    def typed(*words: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()  # what fixtures printed
        monkeypatch.setattr(sys, "argv", ["contextgraft", "evaluate", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return typed


NEEDLE = ["--suite", "needle", "--format", "colours.yaml", "--lengths", "16,64", "--depths", "0,100"]
NEEDLE += ["--samples", "2", "--threads", "1"]
SKILL = ["--suite", "skill", "--skill", "polite.jsonl"]
OUT = ["--out", "samples.parquet"]


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


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nowhere", *NEEDLE, *OUT], "nowhere: no such model folder"),
        (["=model", *NEEDLE, *OUT], "a label is empty"),
        (["model", "--suite", "riddles", *OUT], "'riddles' is not one of"),
        (["model", *NEEDLE, "--lengths", "16,x", *OUT], "'x' is not a valid integer"),
        (["model", *NEEDLE, "--lengths", "16,16", *OUT], "repeats a number"),
        (["model", *NEEDLE, "--lengths", "0", *OUT], "0 is not in the range"),
        (["model", *NEEDLE, "--depths", "0,101", *OUT], "101.0 is not in the range"),
        (["model", *NEEDLE, "--lengths", "4", *OUT], "does not fit the length"),
        (["model", *NEEDLE, "--distractors", "2", *OUT], "too many distractors"),
        (["model", *NEEDLE, "--format", "none.yaml", *OUT], "none.yaml: cannot read"),
        (["model", "--suite", "needle", *OUT], "--suite needle needs lengths"),
        (["model", "--suite", "skill", *OUT], "--suite skill needs a skill"),
        (["model", *SKILL, "--skill-samples", "2", *OUT], "fewer lines than samples"),
        (["model", "--suite", "skill", "--skill", "none.jsonl", *OUT], "none.jsonl: cannot read"),
        (["model", *NEEDLE, "--out", "missing/samples.parquet"], "its folder does not exist"),
        (["model", *NEEDLE, "--out", "model"], "model: is a folder"),
        (["model", *NEEDLE, "--out", "filler.txt"], "filler.txt: holds something else"),
        (["model", *NEEDLE, "--device", "toaster", *OUT], "no such device"),
        (["model", "model", *NEEDLE, *OUT], "two models are labelled 'model'"),
        (["model", "--suite", "needle", "--lengths", "64", *OUT], "lacks words of"),
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
