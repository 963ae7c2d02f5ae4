"""Windows and lines: exact lengths, drawn by seed, refused where they cannot be."""

from dataclasses import replace
from pathlib import Path

import pytest

from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import Tokens
from contextgraft.evaluation.suites.spec import read_skill
from contextgraft.evaluation.suites.text_prompts import DEFAULT_TEXT, Lines, Text, Windows, read_text

FILLER = "it was a dark night and nobody came "


@pytest.fixture
def text() -> Text:
    return Text("filler", "0" * 64, FILLER * 50)


@pytest.mark.parametrize("length", [3, 64, 201])
def test_windows_have_exactly_the_length(text: Text, tokens: Tokens, length: int) -> None:
    windows = Windows(text, length, 5, 1).prompts(tokens)
    ids = tokens.encode(text.content)
    assert [len(window.ids) for window in windows] == [length] * 5
    for window in windows:
        offset = int(window.recipe.split('"offset": ')[1].split(",")[0])
        assert list(window.ids) == ids[offset : offset + length]


def test_windows_are_spread_over_the_whole_text(text: Text, tokens: Tokens) -> None:
    recipes = [window.recipe for window in Windows(text, 80, 5, 1).prompts(tokens)]
    starts = [int(recipe.split('"offset": ')[1].split(",")[0]) for recipe in recipes]
    assert all(part * 321 // 5 <= start <= (part + 1) * 321 // 5 for part, start in enumerate(starts))


def test_the_seed_decides(text: Text, tokens: Tokens) -> None:
    first, again, other = (Windows(text, 80, 5, seed).prompts(tokens) for seed in (1, 1, 2))
    assert first == again != other


def test_the_shortest_text_that_will_do_is_taken(tokens: Tokens) -> None:
    text = Text("short", "0" * 64, " ".join(["night"] * 12))
    assert len(Windows(text, 10, 3, 1).prompts(tokens)) == 3
    with pytest.raises(InputError, match=r"too short for 4 windows.*expected 13.*received 12"):
        Windows(text, 10, 4, 1).prompts(tokens)


def test_words_that_the_tokenizer_lacks_are_refused(tokens: Tokens) -> None:
    with pytest.raises(InputError, match="words that the model's tokenizer lacks"):
        Windows(Text("other", "0" * 64, "call me ishmael " * 40), 10, 1, 1).prompts(tokens)


def test_a_window_of_one_token_predicts_nothing(text: Text, tokens: Tokens) -> None:
    with pytest.raises(InputError, match="too few tokens"):
        Windows(text, 1, 1, 1).prompts(tokens)


def test_lines_hold_prompt_and_answer(skill_file: Path, tokens: Tokens) -> None:
    skill = read_skill(skill_file)
    lines = Lines(skill, None, 1).prompts(tokens)
    assert len(lines) == len(skill.lines) == Lines(skill, None, 1).count_all()
    assert tokens.decode(lines[0].ids) == "the code of boat 00 thank you"
    drawn = Lines(skill, 4, 1).prompts(tokens)
    assert {line.document for line in drawn} <= {line.document for line in lines}
    assert [line.document for line in drawn] == sorted(line.document for line in drawn)
    with pytest.raises(InputError, match="fewer lines than prompts"):
        Lines(skill, 99, 1).prompts(tokens)


def test_one_window_or_line_comes_again_from_its_recipe(text: Text, skill_file: Path, tokens: Tokens) -> None:
    for source in (Windows(text, 64, 4, 1), Lines(read_skill(skill_file), 4, 1)):
        for prompt in source.prompts(tokens):
            row = {"task": source.name, "seed": 1, "document": prompt.document, "recipe": prompt.recipe}
            single = replace(source, seed=2).again(row)
            assert single.prompts(tokens) == [prompt]
            assert (single.name, single.seed, single.count_all()) == (source.name, 1, 1)
            assert single.again(row) is single
            with pytest.raises(InputError, match="is not what the row was measured on"):
                single.again({**row, "recipe": "{}"})
            with pytest.raises(InputError, match="the text is not what the row was measured on"):
                source.again({**row, "task": "another"})


def test_texts_are_shipped_or_files(tmp_path: Path) -> None:
    assert read_text(DEFAULT_TEXT).name == DEFAULT_TEXT
    (tmp_path / "own.txt").write_text(FILLER)
    assert read_text(str(tmp_path / "own.txt")).name == "own"
    with pytest.raises(InputError, match="cannot read"):
        read_text(str(tmp_path / "none.txt"))
