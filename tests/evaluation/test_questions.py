"""Prompts: exact lengths, depths, seeds, words the tokenizer lacks, chat templates."""

import json
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import MARK, Tokens
from contextgraft.evaluation.questions import WORDING, check_answer, needle_questions, skill_questions
from contextgraft.evaluation.suites.spec import NeedleGrid, read_grid, read_skill
from contextgraft.prompts.haystack import Haystack

WORDINGS = """
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
def test_prompt_and_answer_tokens_make_the_length(length: int, grid: NeedleGrid, tokens: Tokens) -> None:
    for question in needle_questions(replace(grid, lengths=(length,)), tokens, seed=1):
        assert len(question.ids) + len(tokens.encode(question.answer)) == length == question.length
        assert question.budget == len(tokens.encode(question.answer))


def test_the_needle_stands_at_its_depth(grid: NeedleGrid, tokens: Tokens) -> None:
    for question in needle_questions(replace(grid, lengths=(400,), distractors=0), tokens, seed=1):
        needle = json.loads(question.recipe)["items"][0]
        words = tokens.decode(question.ids)
        before = words.split(f"the secret code of {needle['key']} {needle['value']} .")[0]
        fill = 400 - 4 - len(["the", "secret", "code", "of", "k", "v", "v", ".", "?", "of", "k"])
        assert question.depth is not None
        assert len(before.split()) == round(question.depth / 100 * fill)


def test_a_seed_gives_the_same_prompts_and_a_larger_grid_holds_them(grid: NeedleGrid, tokens: Tokens) -> None:
    once = needle_questions(grid, tokens, seed=5)
    assert once == needle_questions(grid, tokens, seed=5)
    assert not {q.ids for q in once} & {q.ids for q in needle_questions(grid, tokens, seed=6)}
    assert set(once) <= set(
        needle_questions(replace(grid, lengths=(40, 100, 200), samples=4), tokens, seed=5)
    )
    apart = replace(grid, distractors=1)
    finer = replace(apart, lengths=(40, 100, 200), depths=(0.0, 33.3, 50.0, 100.0), samples=4)
    assert set(needle_questions(apart, tokens, seed=5)) <= set(needle_questions(finer, tokens, seed=5))


def test_words_the_tokenizer_lacks_are_refused(grid: NeedleGrid, tokens: Tokens) -> None:
    strange = grid.format.model_copy(update={"needle": "whisper {key} {value}"})
    with pytest.raises(InputError, match="lacks words of 'whisper"):
        needle_questions(replace(grid, format=strange), tokens, seed=1)
    unsayable = grid.format.model_copy(update={"answer": "{value} merci"})
    with pytest.raises(InputError, match=r"lacks words of '.. .. merci'"):
        needle_questions(replace(grid, format=unsayable), tokens, seed=1)
    with pytest.raises(InputError, match="cannot write the expected answer"):
        check_answer("merci", tokens)


def test_a_haystack_the_tokenizer_lacks_is_refused(grid: NeedleGrid, tokens: Tokens) -> None:
    for haystack, right in (("it was a dark night " * 40 + "whisper", True), ("it was a whisper", False)):
        strange = replace(grid, haystack=Haystack("strange.txt", haystack))
        with (
            nullcontext() if right else pytest.raises(InputError, match=r"haystack strange.txt: .*lacks its")
        ):
            needle_questions(strange, tokens, seed=1)


def test_depths_of_one_text_share_it_and_few_distractors_share_what_is_before(
    grid: NeedleGrid, tokens: Tokens
) -> None:
    shared = replace(grid, lengths=(200,), samples=1, depths=(0.0, 50.0, 100.0))
    together = needle_questions(shared, tokens, seed=1)
    assert {question.document for question in together} == {0}
    assert {question.ids[:-1] for question in together} == {together[0].ids[:-1]}
    assert len({question.answer for question in together}) == 3
    apart = needle_questions(replace(shared, distractors=1), tokens, seed=1)
    assert len({question.answer for question in apart}) == 1
    for first, second in pairwise(apart):
        assert first.depth is not None
        before = round(first.depth / 100 * 177)  # 200 less two needles, question and answer
        assert first.ids[:before] == second.ids[:before]
        assert sorted(first.ids) == sorted(second.ids)


@pytest.mark.parametrize("kind", ["multi_value", "multi_query", "chain"])
def test_the_other_kinds_in_a_vocabulary_of_words(kind: str, format_file: Path, tokens: Tokens) -> None:
    with pytest.raises(InputError, match=f"format code has no wording for {kind}"):
        read_grid(format_file, lengths=(60,), depths=(), samples=1, distractors=0, kind=kind)
    format_file.write_text(format_file.read_text() + WORDINGS)
    grid = read_grid(
        format_file, lengths=(60, 90), depths=(50.0,), samples=4, distractors=1, kind=kind, count=2
    )
    questions = needle_questions(grid, tokens, seed=1)
    assert len(questions) == 8
    for question in questions:
        answers = json.loads(question.answer)
        text = " ".join(answers)
        assert len(answers) == 2
        assert len(question.ids) + len(tokens.encode(text)) == question.length
        assert (question.scoring, question.depth, question.distractors) == ("recall", None, 1)
        assert question.budget == len(tokens.encode(text)) + WORDING
        assert question.kind == kind


def test_an_answer_to_be_contained_may_be_worded(grid: NeedleGrid, tokens: Tokens) -> None:
    loose = replace(grid, format=grid.format.model_copy(update={"scoring": "contains", "stop": ("?",)}))
    for question in needle_questions(loose, tokens, seed=1):
        assert question.length is not None
        assert question.budget == question.length - len(question.ids) + WORDING
        assert question.stop == ("?",)


def test_a_chat_template_stands_around_the_prompt_and_counts(grid: NeedleGrid, tokens: Tokens) -> None:
    chatty = replace(grid, format=grid.format.model_copy(update={"chat": True}))
    with pytest.raises(InputError, match="no chat template"):
        needle_questions(chatty, tokens, seed=1)
    tokens.tokenizer.chat_template = CHAT
    for question in needle_questions(chatty, tokens, seed=1):
        words = tokens.decode(question.ids).split()
        assert (words[0], words[-2:]) == ("the", [".", "you"])
        assert MARK not in words
        assert len(question.ids) + 4 == question.length


def test_a_begin_token_stands_first_only_if_the_tokenizer_adds_it(tokens: Tokens) -> None:
    from tokenizers.processors import TemplateProcessing

    assert tokens.around(chat=False) == ([], [])
    tokens.tokenizer.bos_token = "the"
    assert tokens.around(chat=False) == ([], [])
    tokens.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="the $A", special_tokens=[("the", 1)]
    )
    assert tokens.around(chat=False) == ([1], [])


def test_skill_lines_are_drawn_by_seed_in_file_order(skill_file: Path, tokens: Tokens) -> None:
    everything = skill_questions(read_skill(skill_file), tokens, seed=1)
    assert [question.index for question in everything] == list(range(13))
    assert everything[0].ids == tuple(tokens.encode("the code of boat 00"))
    assert (everything[0].budget, everything[-1].budget) == (2, 1)
    some = skill_questions(read_skill(skill_file, 5), tokens, seed=1)
    assert set(some) < set(everything)
    assert [question.index for question in some] == sorted(question.index for question in some)
    assert some != skill_questions(read_skill(skill_file, 5), tokens, seed=2)
    assert json.loads(some[0].recipe)["line"] == some[0].index
