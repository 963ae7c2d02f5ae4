"""A tiny model with its tokenizer, a needle format and a skill, and `contextgraft evaluate` as typed."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

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
NEEDLE = ["--suite", "needle", "--format", "colours.yaml", "--lengths", "16,64", "--depths", "0,100"]
NEEDLE += ["--samples", "2", "--threads", "1"]
SKILL = ["--suite", "skill", "--skill", "polite.jsonl"]
RULER = ["--suite", "ruler", "--ruler-lengths", "4096", "--ruler-samples", "1"]
OUT = ["--out", "samples.parquet"]


def save_model(folder: Path, words: int, seed: int = 0) -> None:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=words, max_position_embeddings=16, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)


def save_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)


@pytest.fixture(scope="session")
def evaluated_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `model` and the files of its questions, made once; not to be written to."""
    folder = tmp_path_factory.mktemp("evaluated")
    save_model(folder / "model", len(WORDS))
    save_tokenizer(folder / "model")
    (folder / "filler.txt").write_text("a the code " * 60)
    (folder / "colours.yaml").write_text(FORMAT)
    (folder / "polite.jsonl").write_text(json.dumps({"prompt": "the boat", "answer": "thank you"}) + "\n")
    return folder


@pytest.fixture
def model(evaluated_files: Path, tmp_path: Path) -> Path:
    """A copy of the model and of the files, in the folder of the test."""
    shutil.copytree(evaluated_files, tmp_path, dirs_exist_ok=True)
    return tmp_path / "model"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Types a command line; exit code, stdout and stderr."""

    def typed(*words: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()  # what fixtures printed
        verb = [] if words[0] == "replay" else ["evaluate"]
        monkeypatch.setattr(sys, "argv", ["contextgraft", *verb, *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return typed
