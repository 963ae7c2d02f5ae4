"""Training documents of several kinds, read back word by word."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextgraft.errors import InputError
from contextgraft.prompts.kind_document import kind_document
from contextgraft.prompts.needle_format import NeedleFormat
from contextgraft.prompts.training_document import Document, Filler

PAIRS = {"item": "{key} {value}", "joiner": " "}
FORMAT = NeedleFormat.model_validate(
    {
        "name": "words",
        "needle": "code of {key} {value} .",
        "question": "? of {key}",
        "ending": "!",
        "multi_value": {"question": "? values {key} :", **PAIRS},
        "multi_query": {"question": "? keys {keys} :", **PAIRS},
        "chain": {
            "needle": "code of {value} {key} .",
            "link": "code of {previous} {key} .",
            "question": "? chain {value} :",
            "joiner": " ",
        },
        "keys": [f"k{number}" for number in range(30)],
        "values": [f"v{number}" for number in range(900)],
        "haystack": "text",
    }
)
QUESTION = re.compile(r"\? (\w+) ([^:]*) : ([^!]*) !")


def words_and_answers(
    kind: str, length: int, seed: int, fmt: NeedleFormat = FORMAT
) -> tuple[str, str, Document]:
    """The document's text, the words of weight 1, and the document itself."""
    numbers: dict[str, int] = {}

    def encode(text: str) -> list[int]:
        return [numbers.setdefault(word, len(numbers)) for word in text.split()]

    filler = Filler(encode("sea ship whale old") * 20, encode("<s>"))
    document = kind_document(fmt, kind, encode, filler, length=length, rng=np.random.default_rng(seed))
    words = {number: word for word, number in numbers.items()}
    text = " ".join(words[number] for number in document.ids)
    weighted = zip(document.ids, document.weights, strict=True)
    return text, " ".join(words[number] for number, weight in weighted if weight == 1), document


def expected(text: str, asked: str, kind: str) -> str:
    """The answer that the text before a question gives, by reading it."""
    needles = re.findall(r"code of (\w+) (\w+) \.", text)
    if kind == "values":
        return " ".join(f"{key} {value}" for key, value in needles if key == asked)
    if kind == "keys":
        return " ".join(f"{key} {dict(needles)[key]}" for key in asked.split())
    names, known = [], asked
    while known in dict(needles):
        known = dict(needles)[known]
        names.append(known)
    return " ".join(names)


@pytest.mark.parametrize("kind", ["multi_value", "multi_query", "chain"])
@given(length=st.integers(70, 400), seed=st.integers(0, 2**32 - 1))
def test_answers_are_what_the_text_before_them_says(kind: str, length: int, seed: int) -> None:
    text, weighted, document = words_and_answers(kind, length, seed)
    assert len(document.ids) == len(document.weights) == length
    assert text.startswith("<s> ")
    found = list(QUESTION.finditer(text))
    assert found
    for question in found:
        word, asked, answer = question.groups()
        assert answer == expected(text[: question.start()], asked, word)
        assert answer == expected(text, asked, word)  # no needle of the question comes after it
    assert weighted == " ".join(question.group(3) for question in found)


def test_a_document_that_is_too_short_is_refused() -> None:
    with pytest.raises(InputError, match="multi_query question does not fit a training document"):
        words_and_answers("multi_query", 8, 0)


def test_a_kind_without_a_section_is_refused() -> None:
    with pytest.raises(InputError, match="no wording for labels"):
        words_and_answers("labels", 100, 0)


def changed(**fields: object) -> NeedleFormat:
    return NeedleFormat.model_validate({**FORMAT.model_dump(exclude_none=True), **fields})


@pytest.mark.parametrize(
    ("length", "fields"),
    [(24, {"keys": ["k1", "k2", "k3"]}), (32, {"values": [f"v{number}" for number in range(8)]})],
)
def test_a_question_about_one_needle_is_left_where_no_larger_group_fits(
    length: int, fields: dict[str, object]
) -> None:
    fmt = changed(**fields)
    for seed in range(300):
        text, _, _ = words_and_answers("multi_value", length, seed, fmt)
        assert QUESTION.search(text)


def test_generated_keys_are_not_in_two_groups() -> None:
    fmt = changed(multi_value={"question": "? values {key} :", **PAIRS, "keys": "word"})
    found = 0
    for seed in range(12):
        text, _, _ = words_and_answers("multi_value", 20_000, seed, fmt)
        for question in re.finditer(r"\? values (\w+) : ([^!]*) !", text):
            assert question.group(2) == expected(text, question.group(1), "values")
            found += 1
    assert found > 1000
