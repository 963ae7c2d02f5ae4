"""Needles stand at the ends of sentences, whatever the tokenizer; the tokens of the text stay the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from contextgraft.errors import InputError
from contextgraft.prompts.haystack import (
    Haystack,
    TokenizedHaystack,
    fill_with_text,
    read_haystack,
    sentence_stops,
    tokenize_haystack,
)
from contextgraft.prompts.needle_format import NeedleFormat
from contextgraft.prompts.needle_prompt import PromptTemplate, build_context, draw_prompt_spec


def tokenized(tokenizer: Tokenizer, text: str) -> TokenizedHaystack:
    return tokenize_haystack(
        Haystack("text", text),
        lambda piece: list(tokenizer.encode(piece, add_special_tokens=False).ids),
        lambda piece: [end for _, end in tokenizer.encode(piece, add_special_tokens=False).offsets],
    )


@pytest.mark.parametrize("name", ["word", "bpe"])
def test_needles_stand_behind_sentences(
    tokenizers: dict[str, Tokenizer], fmt: NeedleFormat, sample: str, name: str
) -> None:
    tokenizer = tokenizers[name]
    haystack = tokenized(tokenizer, sample)
    assert haystack.ids == list(tokenizer.encode(sample, add_special_tokens=False).ids)

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    template = PromptTemplate(fmt.wording("single"), fmt.pools(haystack=sample), encode, haystack)
    for seed in range(15):
        rng = np.random.default_rng(seed)
        settings: dict[str, Any] = {"length": 700, "depths": (0.0, 30.0, 60.0, 100.0), "count": 1}
        spec = draw_prompt_spec(
            template.pools, "single", distractors=3, rng=rng, offsets=haystack.offset_count, **settings
        )
        context = build_context(template, spec)
        for item in spec["items"]:
            needle = encode(fmt.wording("single").needle_text(item))
            shared = context.shared
            place = next(i for i in range(len(shared)) if shared[i : i + len(needle)] == needle)
            before = tokenizer.decode(shared[:place]).rstrip().rstrip("\"'\u201d\u2019) ")
            assert before.endswith((".", "!", "?")), before[-40:]


def test_a_text_begins_with_a_sentence_and_goes_on_at_its_end(tokenizers: dict[str, Tokenizer]) -> None:
    text = "One two three. Four five! Six seven eight nine?"
    haystack = tokenized(tokenizers["bpe"], text)
    assert len(haystack.stops) == 3
    filler = fill_with_text(haystack, haystack.stops[1] - 1, 2 * len(haystack.ids), 3, iter(()))
    decoded = tokenizers["bpe"].decode(filler.body)
    assert decoded.startswith(" Four five! Six seven eight nine?One two three.")
    assert filler.boundaries
    assert filler.boundaries[0] == 0
    assert filler.insertion_index(0.0) == 0
    behind = {tokenizers["bpe"].decode(filler.body[:index])[-1:] for index in filler.boundaries[1:]}
    assert behind == {".", "!", "?"}


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("Mr. Bell slept. St. Ives woke.", ["Mr. Bell slept."]),
        ('He said "go." Then 3.5 miles.', ['He said "go."']),
        (
            "\u4f60\u597d\u3002\u518d\u89c1\uff01\u597d",
            ["\u4f60\u597d\u3002", "\u4f60\u597d\u3002\u518d\u89c1\uff01"],
        ),
        ("a = 1\nb = 2\nc = 3", ["a = 1", "a = 1\nb = 2"]),
    ],
)
def test_what_ends_a_sentence(text: str, ends: list[str]) -> None:
    letters = range(1, len(text) + 1)  # one token for each character
    stops = sentence_stops(text, list(letters), len(text))
    assert [text[:stop].rstrip("\n") for stop in stops if stop] == ends


def test_without_known_ends_needles_stand_anywhere() -> None:
    assert sentence_stops("One. Two.", (), 2) == []
    assert sentence_stops("no end at all", list(range(1, 14)), 13) == []


def test_a_folder_of_books_is_one_haystack(tmp_path: Path) -> None:
    for name, text in {"b.txt": "Second.", "a.txt": "First.", "notes.md": "Not read."}.items():
        (tmp_path / name).write_text(text)
    assert read_haystack(".", tmp_path) == "First.\n\nSecond."
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="a folder of"):
        read_haystack("empty", tmp_path)


def test_the_shipped_texts_share_no_sentence_and_have_many() -> None:
    texts = [read_haystack(name, Path()) for name in ("prose", "speeches", "moby_dick_train")]
    sentences = [{part.strip() for part in text.split(".") if len(part) > 40} for text in texts]
    assert [len(own) > 1000 for own in sentences] == [True] * 3
    assert not sentences[0] & sentences[1]
    assert not sentences[1] & sentences[2]
    assert texts[1].isascii()  # a byte-pair tokenizer of any language can write it
