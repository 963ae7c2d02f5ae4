"""TextWindows and lines: exact lengths, drawn by seed, refused where they cannot be."""

from dataclasses import replace
from pathlib import Path

import pytest

from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.suites.skill_file import read_skill_file
from contextgraft.evaluation.suites.text_prompts import DEFAULT_TEXT, SkillLines, Text, TextWindows, read_text

FILLER = "it was a dark night and nobody came "


@pytest.fixture
def text() -> Text:
    return Text("filler", "0" * 64, FILLER * 50)


@pytest.mark.parametrize("length", [3, 64, 201])
def test_windows_have_exactly_the_length(text: Text, tokens: PromptTokenizer, length: int) -> None:
    windows = TextWindows(text, length, 5, 1).prompts(tokens)
    ids = tokens.encode(text.content)
    assert [len(window.ids) for window in windows] == [length] * 5
    for window in windows:
        offset = int(window.prompt_spec.split('"offset": ')[1].split(",")[0])
        assert list(window.ids) == ids[offset : offset + length]


def test_windows_are_spread_over_the_whole_text(text: Text, tokens: PromptTokenizer) -> None:
    recipes = [window.prompt_spec for window in TextWindows(text, 80, 5, 1).prompts(tokens)]
    starts = [int(recipe.split('"offset": ')[1].split(",")[0]) for recipe in recipes]
    assert all(part * 321 // 5 <= start <= (part + 1) * 321 // 5 for part, start in enumerate(starts))


def test_the_seed_decides(text: Text, tokens: PromptTokenizer) -> None:
    first, again, other = (TextWindows(text, 80, 5, seed).prompts(tokens) for seed in (1, 1, 2))
    assert first == again != other


def test_the_shortest_text_that_will_do_is_taken(tokens: PromptTokenizer) -> None:
    text = Text("short", "0" * 64, " ".join(["night"] * 12))
    assert len(TextWindows(text, 10, 3, 1).prompts(tokens)) == 3
    with pytest.raises(InputError, match=r"too short for 4 windows.*expected 13.*received 12"):
        TextWindows(text, 10, 4, 1).prompts(tokens)


def test_words_that_the_tokenizer_lacks_are_refused(tokens: PromptTokenizer) -> None:
    with pytest.raises(InputError, match="words that the model's tokenizer lacks"):
        TextWindows(Text("other", "0" * 64, "call me ishmael " * 40), 10, 1, 1).prompts(tokens)


def test_a_window_of_one_token_predicts_nothing(text: Text, tokens: PromptTokenizer) -> None:
    with pytest.raises(InputError, match="too few tokens"):
        TextWindows(text, 1, 1, 1).prompts(tokens)


def test_lines_hold_prompt_and_answer(skill_file: Path, tokens: PromptTokenizer) -> None:
    skill = read_skill_file(skill_file)
    lines = SkillLines(skill, None, 1).prompts(tokens)
    assert len(lines) == len(skill.lines) == len(SkillLines(skill, None, 1))
    assert tokens.decode(lines[0].ids) == "the code of boat 00 thank you"
    drawn = SkillLines(skill, 4, 1).prompts(tokens)
    assert {line.document for line in drawn} <= {line.document for line in lines}
    assert [line.document for line in drawn] == sorted(line.document for line in drawn)
    with pytest.raises(InputError, match="fewer lines than prompts"):
        SkillLines(skill, 99, 1).prompts(tokens)


def test_one_window_or_line_comes_again_from_its_recipe(
    text: Text, skill_file: Path, tokens: PromptTokenizer
) -> None:
    for source in (TextWindows(text, 64, 4, 1), SkillLines(read_skill_file(skill_file), 4, 1)):
        for prompt in source.prompts(tokens):
            row = {"task": source.name, "seed": 1, "document": prompt.document, "recipe": prompt.prompt_spec}
            single = replace(source, seed=2).narrowed(row)
            assert single.prompts(tokens) == [prompt]
            assert (single.name, single.seed, len(single)) == (source.name, 1, 1)
            assert single.narrowed(row) is single
            with pytest.raises(InputError, match="is not what the row was measured on"):
                single.narrowed({**row, "recipe": "{}"})
            with pytest.raises(InputError, match="the text is not what the row was measured on"):
                source.narrowed({**row, "task": "another"})


def test_texts_are_shipped_or_files(tmp_path: Path) -> None:
    assert read_text(DEFAULT_TEXT).name == DEFAULT_TEXT
    (tmp_path / "own.txt").write_text(FILLER)
    assert read_text(str(tmp_path / "own.txt")).name == "own"
    with pytest.raises(InputError, match="cannot read"):
        read_text(str(tmp_path / "none.txt"))
