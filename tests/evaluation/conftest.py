"""Tiny models with a real word tokenizer, a needle format and a skill of its words."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from contextgraft.evaluation.backends.tokenizer import PromptTokenizer, load_tokenizer
from contextgraft.evaluation.suites.needle_grid import NeedleGrid, read_grid

KEYS = ["boat", "cave", "door", "farm", "gate", "hill"]
VALUES = [f"{n:02d}" for n in range(16)]
FILLER = ["it", "was", "a", "dark", "night", "and", "nobody", "came"]
WORDS = ["<unk>", "the", "secret", "code", "of", ".", "?", "thank", "you", *KEYS, *VALUES, *FILLER]

FORMAT = f"""
name: code
needle: "the secret code of {{key}} {{value}} ."
question: "? of {{key}}"
answer: "{{value}} thank you"
keys: [{", ".join(KEYS)}]
values: [{", ".join(f'"{v}"' for v in VALUES)}]
value_words: 2
haystack: filler.txt
"""

MakeModel = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def save_tokenizer(folder: Path, words: list[str]) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)


def save_model(folder: Path, **changes: Any) -> None:
    settings: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).to(torch.bfloat16).save_pretrained(folder)


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """Writes a random Llama of 128 positions; the same seed gives the same weights."""

    def make(name: str = "tiny", seed: int = 0, words: list[str] | None = None, **changes: Any) -> Path:
        torch.manual_seed(seed)
        folder = tmp_path / name
        save_model(folder, **{"vocab_size": len(words or WORDS), **changes})
        save_tokenizer(folder, words or WORDS)
        return folder

    return make


@pytest.fixture
def format_file(tmp_path: Path) -> Path:
    (tmp_path / "filler.txt").write_text(" ".join(FILLER * 40))
    path = tmp_path / "code.yaml"
    path.write_text(FORMAT)
    return path


@pytest.fixture
def skill_file(tmp_path: Path) -> Path:
    path = tmp_path / "polite.jsonl"
    lines = [{"prompt": f"the code of {k} {v}", "answer": "thank you"} for k in KEYS for v in VALUES[:2]]
    lines += [{"prompt": "? of", "answer": KEYS[0]}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    folder = tmp_path_factory.mktemp("for_tokens")
    save_model(folder, vocab_size=len(WORDS))
    save_tokenizer(folder, WORDS)
    return load_tokenizer(folder)


@pytest.fixture
def grid(format_file: Path) -> NeedleGrid:
    return read_grid(format_file, lengths=(40, 200), depths=(0.0, 50.0, 100.0), samples=3, distractors=2)
