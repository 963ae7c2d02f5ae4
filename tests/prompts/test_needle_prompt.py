"""Prompts: exact lengths, places, shared text, recipes that rebuild them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from contextgraft.errors import InputError
from contextgraft.prompts.haystack import Haystack, encoded, find
from contextgraft.prompts.needle_format import KINDS, Encode, NeedleFormat
from contextgraft.prompts.needle_prompt import Context, Frame, assemble, evaluation_prompt, weave
from contextgraft.prompts.sampling import Source, draw_recipe

HAYSTACKS = ("prose", "noise", "code", "needles")
Tokenizers = dict[str, Tokenizer]


def encoder(tokenizer: Tokenizer) -> Encode:
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.fixture(scope="session")
def make_frame(tokenizers: Tokenizers, fmt: NeedleFormat, sample: str) -> Callable[..., Frame]:
    texts = {
        name: haystack
        for name in HAYSTACKS
        for haystack in [find(name, Path(), lambda: sample)]
        if haystack.text
    }
    texts["prose"] = Haystack("prose", sample)
    encoders = {name: encoder(tokenizer) for name, tokenizer in tokenizers.items()}
    hays = {(n, h): encoded(texts[h], encode) for n, encode in encoders.items() for h in HAYSTACKS}

    def make(tokenizer: str = "bpe", kind: str = "single", haystack: str = "prose", **more: Any) -> Frame:
        source = Source.of(fmt, haystack=texts[haystack].text)
        return Frame(fmt.wording(kind), source, encoders[tokenizer], hays[tokenizer, haystack], **more)

    return make


def draw(frame: Frame, kind: str = "single", **changes: Any) -> dict[str, Any]:
    seed = changes.pop("seed", 0)
    settings = {"length": 600, "depths": (50.0,), "count": 3, "distractors": 0, **changes}
    return draw_recipe(
        frame.source, kind, rng=np.random.default_rng(seed), offsets=frame.hay.offsets, **settings
    )


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    haystack=st.sampled_from(HAYSTACKS),
    length=st.integers(320, 900),
    depths=st.lists(st.floats(0, 100), min_size=1, max_size=4),
    distractors=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
    edges=st.tuples(st.lists(st.just(7), max_size=4), st.lists(st.just(9), max_size=4)),
)
def test_length_is_exact_and_the_recipe_rebuilds(  # noqa: PLR0917 - parametrize and hypothesis
    make_frame: Callable[..., Frame],
    tokenizer: str,
    kind: str,
    haystack: str,
    length: int,
    depths: list[float],
    distractors: int,
    seed: int,
    edges: tuple[list[int], list[int]],
) -> None:
    before, after = edges
    frame = make_frame(tokenizer, kind, haystack, prefix_ids=before, suffix_ids=after)
    recipe = draw(frame, kind, length=length, depths=depths, distractors=distractors, seed=seed)
    context = weave(frame, recipe)
    assert len(context.askings) == (len(depths) if kind == "single" else 1)
    for asked, asking in enumerate(context.askings):
        prompt = context.prompt(asked)
        assert len(prompt.ids) + len(frame.encode(asking.text)) == length
        assert prompt.ids[: len(before)] == before
        assert prompt.ids[len(prompt.ids) - len(after) :] == after
        assert assemble(frame, json.loads(json.dumps(prompt.recipe))) == prompt


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_questions_about_one_text_share_it_whole(make_frame: Callable[..., Frame], tokenizer: str) -> None:
    frame = make_frame(tokenizer)
    for seed in range(20):
        context = weave(frame, draw(frame, depths=(0.0, 25.0, 50.0, 75.0, 100.0), distractors=4, seed=seed))
        prompts = [context.prompt(asked).ids for asked in range(5)]
        longest = max(len(asking.ids) + asking.room for asking in context.askings)
        for ids in prompts[1:]:
            pairs = enumerate(zip(ids, prompts[0], strict=False))
            same = next((n for n, (a, b) in pairs if a != b), len(ids))
            assert same >= len(context.shared) == 600 - longest


def test_a_reserve_takes_the_place_of_the_answer(make_frame: Callable[..., Frame]) -> None:
    frame = make_frame(reserve=128)
    assert len(weave(frame, draw(frame)).prompt(0).ids) == 600 - 128


@pytest.mark.parametrize("depth", [0.0, 25.0, 50.0, 100.0])
def test_depth_places_the_needle_to_the_token(
    make_frame: Callable[..., Frame], fmt: NeedleFormat, depth: float
) -> None:
    frame = make_frame()
    prompt = weave(frame, draw(frame, depths=(depth,), seed=3)).prompt(0)
    item = prompt.recipe["items"][0]
    needle = frame.encode(fmt.needle_text(item["key"], item["value"]))
    question = frame.encode(fmt.question_text(item["key"]))
    intro = len(frame.encode(fmt.intro))
    place = next(n for n in range(len(prompt.ids)) if prompt.ids[n : n + len(needle)] == needle)
    fill = len(prompt.ids) - intro - len(needle) - len(question)
    assert place == intro + round(depth / 100 * fill)


@pytest.mark.parametrize("haystack", ["noise", "needles"])
@pytest.mark.parametrize("kind", KINDS)
def test_needles_never_break_a_sentence(
    make_frame: Callable[..., Frame], tokenizers: Tokenizers, fmt: NeedleFormat, kind: str, haystack: str
) -> None:
    frame = make_frame("bpe", kind, haystack)
    for seed in range(10):
        prompt = weave(frame, draw(frame, kind, depths=(37.0,), distractors=2, seed=seed)).prompt(0)
        text = tokenizers["bpe"].decode(prompt.ids, skip_special_tokens=False)
        assert text.startswith("Read. ")
        for item in prompt.recipe["items"]:
            sentence = frame.wording.needle_text(item)
            before = text[: text.index(sentence)]
            assert before.endswith(".")
            assert text.count(sentence) == 1


def test_a_haystack_of_needles_holds_no_key_and_no_value_of_the_recipe(
    make_frame: Callable[..., Frame], tokenizers: Tokenizers
) -> None:
    frame = make_frame("bpe", haystack="needles")
    context: Context = weave(frame, draw(frame, length=2000, distractors=2))
    text = tokenizers["bpe"].decode(context.shared, skip_special_tokens=False)
    assert text.count("The code of") > 30
    for item in context.recipe["items"]:
        assert text.count(f"The code of {item['key']} is") == 1
        assert text.count(item["value"]) == 1


def test_too_short_length_is_refused(fmt: NeedleFormat, tokenizers: Tokenizers) -> None:
    with pytest.raises(InputError, match=r"does not fit the length; expected at least \d+ tokens") as error:
        evaluation_prompt(
            fmt,
            encoder(tokenizers["bpe"]),
            length=10,
            depth=0,
            distractors=0,
            rng=np.random.default_rng(0),
            haystack_ids=[1],
        )
    needed = int(str(error.value).split("at least ")[1].split()[0])
    prompt = evaluation_prompt(
        fmt,
        encoder(tokenizers["bpe"]),
        length=needed,
        depth=0,
        distractors=0,
        rng=np.random.default_rng(0),
        haystack_ids=[1],
    )
    assert 1 not in prompt.ids
