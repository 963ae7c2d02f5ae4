"""Prompts: exact lengths, depths, seeds, words the tokenizer lacks, chat templates."""

import json
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.questions import check_answer
from contextgraft.evaluation.suites.needle_grid import EXTRA_TOKENS, NeedleGrid, read_grid
from contextgraft.evaluation.suites.skill_file import read_skill_file
from contextgraft.formats.tokenizer.chat_template import MARK
from contextgraft.formats.tokenizer.limited_tokenizer import LimitedTokenizer
from contextgraft.prompts.haystack import Haystack

EXTRA_TOKENSS = """
multi_value: {question: "? of {key}", joiner: " "}
multi_query: {question: "? of {keys}", joiner: " "}
chain:
  needle: "the code of {key} {value} ."
  link: "the code of {key} of {previous} ."
  question: "? code {value}"
  joiner: " "
"""

CHAT = (
    "{% for m in messages %}the {{ m['content'] }} .{% endfor %}{% if add_generation_prompt %} you{% endif %}"
)


@pytest.mark.parametrize("length", [40, 64, 127, 128, 129, 1024])
def test_prompt_and_answer_tokens_make_the_length(
    length: int, grid: NeedleGrid, tokens: PromptTokenizer
) -> None:
    for question in replace(grid, lengths=(length,)).questions(tokens, 1):
        assert len(question.ids) + len(tokens.encode(question.answer)) == length == question.length
        assert question.budget == len(tokens.encode(question.answer))


def test_the_needle_stands_at_its_depth(grid: NeedleGrid, tokens: PromptTokenizer) -> None:
    for question in replace(grid, lengths=(400,), distractors=0).questions(tokens, 1):
        needle = json.loads(question.prompt_spec)["items"][0]
        words = tokens.decode(question.ids)
        before = words.split(f"the secret code of {needle['key']} {needle['value']} .")[0]
        fill = 400 - 4 - len(["the", "secret", "code", "of", "k", "v", "v", ".", "?", "of", "k"])
        assert question.depth is not None
        assert len(before.split()) == round(question.depth / 100 * fill)


def test_a_seed_gives_the_same_prompts_and_a_larger_grid_holds_them(
    grid: NeedleGrid, tokens: PromptTokenizer
) -> None:
    once = grid.questions(tokens, 5)
    assert once == grid.questions(tokens, 5)
    assert not {q.ids for q in once} & {q.ids for q in grid.questions(tokens, 6)}
    assert set(once) <= set(replace(grid, lengths=(40, 100, 200), samples=4).questions(tokens, 5))
    apart = replace(grid, distractors=1)
    finer = replace(apart, lengths=(40, 100, 200), depths=(0.0, 33.3, 50.0, 100.0), samples=4)
    assert set(apart.questions(tokens, 5)) <= set(finer.questions(tokens, 5))


def test_words_the_tokenizer_lacks_are_refused(grid: NeedleGrid, tokens: PromptTokenizer) -> None:
    strange = grid.format.model_copy(update={"needle": "whisper {key} {value}"})
    with pytest.raises(InputError, match="lacks words of 'whisper"):
        replace(grid, format=strange).questions(tokens, 1)
    unsayable = grid.format.model_copy(update={"answer": "{value} merci"})
    with pytest.raises(InputError, match=r"lacks words of '.. .. merci'"):
        replace(grid, format=unsayable).questions(tokens, 1)
    with pytest.raises(InputError, match="cannot write the expected answer"):
        check_answer("merci", tokens)


def test_a_haystack_the_tokenizer_lacks_is_refused(grid: NeedleGrid, tokens: PromptTokenizer) -> None:
    for haystack, right in (("it was a dark night " * 40 + "whisper", True), ("it was a whisper", False)):
        strange = replace(grid, haystack=Haystack("strange.txt", haystack))
        with (
            nullcontext() if right else pytest.raises(InputError, match=r"haystack strange.txt: .*lacks its")
        ):
            strange.questions(tokens, 1)


def test_depths_of_one_text_share_it_and_few_distractors_share_what_is_before(
    grid: NeedleGrid, tokens: PromptTokenizer
) -> None:
    shared = replace(grid, lengths=(200,), samples=1, depths=(0.0, 50.0, 100.0))
    together = shared.questions(tokens, 1)
    assert {question.document for question in together} == {0}
    assert {question.ids[:-1] for question in together} == {together[0].ids[:-1]}
    assert len({question.answer for question in together}) == 3
    apart = replace(shared, distractors=1).questions(tokens, 1)
    assert len({question.answer for question in apart}) == 1
    for first, second in pairwise(apart):
        assert first.depth is not None
        before = round(first.depth / 100 * 177)  # 200 less two needles, question and answer
        assert first.ids[:before] == second.ids[:before]
        assert sorted(first.ids) == sorted(second.ids)


@pytest.mark.parametrize("kind", ["multi_value", "multi_query", "chain"])
def test_the_other_kinds_in_a_vocabulary_of_words(
    kind: str, format_file: Path, tokens: PromptTokenizer
) -> None:
    with pytest.raises(InputError, match=f"format code has no wording for {kind}"):
        read_grid(format_file, lengths=(60,), depths=(), samples=1, distractors=0, kind=kind)
    format_file.write_text(format_file.read_text() + EXTRA_TOKENSS)
    grid = read_grid(
        format_file, lengths=(60, 90), depths=(50.0,), samples=4, distractors=1, kind=kind, count=2
    )
    questions = grid.questions(tokens, 1)
    assert len(questions) == 8
    for question in questions:
        answers = json.loads(question.answer)
        text = " ".join(answers)
        assert len(answers) == 2
        assert len(question.ids) + len(tokens.encode(text)) == question.length
        assert (question.scoring, question.depth, question.distractors) == ("recall", None, 1)
        assert question.budget == len(tokens.encode(text)) + EXTRA_TOKENS
        assert question.kind == kind


def test_an_answer_to_be_contained_may_be_worded(grid: NeedleGrid, tokens: PromptTokenizer) -> None:
    loose = replace(grid, format=grid.format.model_copy(update={"scoring": "contains", "stop": ("?",)}))
    for question in loose.questions(tokens, 1):
        assert question.length is not None
        assert question.budget == question.length - len(question.ids) + EXTRA_TOKENS
        assert question.stop == ("?",)


def test_a_chat_template_stands_around_the_prompt_and_counts(
    grid: NeedleGrid, tokens: PromptTokenizer
) -> None:
    chatty = replace(grid, format=grid.format.model_copy(update={"chat": True}))
    with pytest.raises(InputError, match="no chat template"):
        chatty.questions(tokens, 1)
    tokens.hf.chat_template = CHAT
    for question in chatty.questions(tokens, 1):
        words = tokens.decode(question.ids).split()
        assert (words[0], words[-2:]) == ("the", [".", "you"])
        assert MARK not in words
        assert len(question.ids) + 4 == question.length


def test_a_begin_token_stands_first_only_if_the_tokenizer_adds_it(tokens: PromptTokenizer) -> None:
    from tokenizers.processors import TemplateProcessing

    assert tokens.prefix_suffix(chat=False) == ([], [])
    tokens.hf.bos_token = "the"
    assert tokens.prefix_suffix(chat=False) == ([], [])
    tokens.hf.backend_tokenizer.post_processor = TemplateProcessing(
        single="the $A", special_tokens=[("the", 1)]
    )
    changed = PromptTokenizer(tokens.path, LimitedTokenizer(tokens.hf, tokens.path))
    assert changed.prefix_suffix(chat=False) == ([1], [])


def test_skill_lines_are_drawn_by_seed_in_file_order(skill_file: Path, tokens: PromptTokenizer) -> None:
    everything = read_skill_file(skill_file).questions(tokens, 1)
    assert [question.index for question in everything] == list(range(13))
    assert everything[0].ids == tuple(tokens.encode("the code of boat 00"))
    assert (everything[0].budget, everything[-1].budget) == (2, 1)
    some = read_skill_file(skill_file, 5).questions(tokens, 1)
    assert set(some) < set(everything)
    assert [question.index for question in some] == sorted(question.index for question in some)
    assert some != read_skill_file(skill_file, 5).questions(tokens, 2)
    assert json.loads(some[0].prompt_spec)["line"] == some[0].index
