"""Prompts: exact lengths, needle positions, shared text, specifications that rebuild them."""

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
from contextgraft.prompts.haystack import Haystack, find_haystack, tokenize_haystack
from contextgraft.prompts.needle_format import NeedleFormat
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS
from contextgraft.prompts.needle_prompt import (
    PromptTemplate,
    build_context,
    build_prompt,
    draw_prompt_spec,
    evaluation_prompt,
)
from contextgraft.prompts.tokens import Encode

HAYSTACKS = ("prose", "noise", "code", "needles")
Tokenizers = dict[str, Tokenizer]
MakeTemplate = Callable[..., PromptTemplate]


def encoder(tokenizer: Tokenizer) -> Encode:
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.fixture(scope="session")
def make_template(tokenizers: Tokenizers, fmt: NeedleFormat, sample: str) -> MakeTemplate:
    texts = {
        name: haystack
        for name in HAYSTACKS
        for haystack in [find_haystack(name, Path(), lambda: sample)]
        if haystack.text
    }
    texts["prose"] = Haystack("prose", sample)
    encoders = {name: encoder(tokenizer) for name, tokenizer in tokenizers.items()}
    haystacks = {
        (n, h): tokenize_haystack(texts[h], encode) for n, encode in encoders.items() for h in HAYSTACKS
    }

    def make(
        tokenizer: str = "bpe", kind: str = "single", haystack: str = "prose", **more: Any
    ) -> PromptTemplate:
        pools = fmt.pools(haystack=texts[haystack].text)
        text = haystacks[tokenizer, haystack]
        return PromptTemplate(fmt.wording(kind), pools, encoders[tokenizer], text, **more)

    return make


def draw(template: PromptTemplate, kind: str = "single", **changes: Any) -> dict[str, Any]:
    seed = changes.pop("seed", 0)
    settings = {"length": 600, "depths": (50.0,), "count": 3, "distractors": 0, **changes}
    rng, offsets = np.random.default_rng(seed), template.haystack.offset_count
    return draw_prompt_spec(template.pools, kind, rng=rng, offsets=offsets, **settings)


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
@settings(max_examples=60)
@given(
    kind=st.sampled_from(sorted(NEEDLE_KINDS)),
    haystack=st.sampled_from(HAYSTACKS),
    length=st.integers(320, 900),
    depths=st.lists(st.floats(0, 100), min_size=1, max_size=4),
    distractors=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
    edges=st.tuples(st.lists(st.just(7), max_size=4), st.lists(st.just(9), max_size=4)),
)
def test_length_is_exact_and_the_specification_rebuilds(  # noqa: PLR0917 - parametrize and hypothesis
    make_template: MakeTemplate,
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
    template = make_template(tokenizer, kind, haystack, prefix_ids=before, suffix_ids=after)
    prompt_spec = draw(template, kind, length=length, depths=depths, distractors=distractors, seed=seed)
    context = build_context(template, prompt_spec)
    about_all = kind in ("multi_value", "multi_query", "chain")
    assert len(context.questions) == (1 if about_all else len(depths))
    for index, question in enumerate(context.questions):
        prompt = context.prompt(index)
        assert len(prompt.ids) + len(template.encode(question.text)) == length
        assert prompt.ids[: len(before)] == before
        assert prompt.ids[len(prompt.ids) - len(after) :] == after
        assert build_prompt(template, json.loads(json.dumps(prompt.prompt_spec))) == prompt


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_questions_about_one_text_share_it_whole(make_template: MakeTemplate, tokenizer: str) -> None:
    template = make_template(tokenizer)
    for seed in range(20):
        prompt_spec = draw(template, depths=(0.0, 25.0, 50.0, 75.0, 100.0), distractors=4, seed=seed)
        context = build_context(template, prompt_spec)
        prompts = [context.prompt(index).ids for index in range(5)]
        longest = max(len(question.ids) + question.answer_tokens for question in context.questions)
        for ids in prompts[1:]:
            pairs = enumerate(zip(ids, prompts[0], strict=False))
            same = next((n for n, (a, b) in pairs if a != b), len(ids))
            assert same >= len(context.shared) == 600 - longest


def test_reserved_answer_tokens_replace_those_of_the_answer(make_template: MakeTemplate) -> None:
    template = make_template(answer_tokens=128)
    assert len(build_context(template, draw(template)).prompt(0).ids) == 600 - 128


@pytest.mark.parametrize("depth", [0.0, 25.0, 50.0, 100.0])
def test_depth_places_the_needle_to_the_token(
    make_template: MakeTemplate, fmt: NeedleFormat, depth: float
) -> None:
    template = make_template()
    prompt = build_context(template, draw(template, depths=(depth,), seed=3)).prompt(0)
    item = prompt.prompt_spec["items"][0]
    needle = template.encode(fmt.needle_text(item["key"], item["value"]))
    question = template.encode(fmt.question_text(item["key"]))
    intro = len(template.encode(fmt.intro))
    place = next(n for n in range(len(prompt.ids)) if prompt.ids[n : n + len(needle)] == needle)
    fill = len(prompt.ids) - intro - len(needle) - len(question)
    assert place == intro + round(depth / 100 * fill)


@pytest.mark.parametrize("haystack", ["noise", "needles"])
@pytest.mark.parametrize("kind", NEEDLE_KINDS)
def test_needles_never_break_a_sentence(
    make_template: MakeTemplate, tokenizers: Tokenizers, fmt: NeedleFormat, kind: str, haystack: str
) -> None:
    template = make_template("bpe", kind, haystack)
    for seed in range(10):
        prompt_spec = draw(template, kind, depths=(37.0,), distractors=2, seed=seed)
        prompt = build_context(template, prompt_spec).prompt(0)
        text = tokenizers["bpe"].decode(prompt.ids, skip_special_tokens=False)
        assert text.startswith("Read. ")
        for item in prompt.prompt_spec["items"]:
            sentence = template.wording.needle_text(item)
            before = text[: text.index(sentence)]
            assert before.endswith(".")
            assert text.count(sentence) == 1


def test_a_haystack_of_needles_holds_no_key_and_no_value_of_the_specification(
    make_template: MakeTemplate, tokenizers: Tokenizers
) -> None:
    template = make_template("bpe", haystack="needles")
    context = build_context(template, draw(template, length=2000, distractors=2))
    text = tokenizers["bpe"].decode(context.shared, skip_special_tokens=False)
    assert text.count("The code of") > 30
    for item in context.prompt_spec["items"]:
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
