"""Two small tokenizers over the shipped prose: one of words with an unknown token, one of byte pairs."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from contextgraft.prompts.haystack import read_haystack
from contextgraft.prompts.needle_format import NeedleFormat

SAMPLE = read_haystack("prose", base_dir=Path())[:20_000]


def word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        [SAMPLE], trainers.WordLevelTrainer(vocab_size=500, special_tokens=["[UNK]"])
    )
    return tokenizer


def byte_pair() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([SAMPLE], trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet))
    return tokenizer


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, Tokenizer]:
    return {"word": word_level(), "bpe": byte_pair()}


@pytest.fixture(scope="session")
def sample() -> str:
    return SAMPLE


@pytest.fixture(scope="session")
def fmt() -> NeedleFormat:
    listed = {"question": " What are the codes of {keys}? They are", "answer": " {answers}"}
    chain = {
        "needle": " The code of {key} is {value}.",
        "link": " The code of {key} is that of {previous}.",
        "question": " Which things have the code {value}? They are",
        "answer": " {answers}",
    }
    return NeedleFormat.model_validate(
        {
            "name": "plain",
            "intro": "Read.",
            "needle": " The code of {key} is {value}.",
            "question": " What is the code of {key}? It is",
            "answer": " {value}",
            "keys": ("harbor", "anchor", "candle", "window", "garden", "lamp", "key", "bread"),
            "values": "number",
            "haystack": "prose",
            "multi_value": {"question": " What are the codes of {key}? They are", "answer": " {answers}"},
            "multi_query": listed,
            "chain": chain,
            "association": {
                "needle": " {value} lives next to {clue}.",
                "question": " Who has been to {key}? It was",
                "answer": " {value}",
                "values": ("Ada", "Ben", "Cy", "Dora", "Eve", "Fay", "Gil", "Hal"),
                "associations": {key: f"the {key} museum" for key in ("harbor", "anchor", "lamp", "bread")},
            },
            "key_value": {
                "needle": " Entry {key} holds {value}.",
                "question": " The value of {key} is",
                "answer": " {value}",
            },
            "labels": {
                "needle": " Example {key} is {value}.",
                "question": " Example {key} is",
                "answer": " {value}",
            },
        }
    )
