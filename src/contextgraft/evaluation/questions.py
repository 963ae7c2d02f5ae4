"""What a model is asked: prompts as exact token ids, with the answer that is expected."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from contextgraft.errors import InputError
from contextgraft.evaluation.suites import NeedleGrid, Skill
from contextgraft.evaluation.tokens import Tokens
from contextgraft.prompts.needle import NeedleFormat, NeedlePrompt, evaluation_prompt

WORDING = 32  # tokens a model may spend around an answer that is only to be contained


@dataclass(frozen=True)
class Question:
    """One prompt. `length` counts prompt and answer tokens, `budget` the tokens that may be generated."""

    suite: str
    task: str
    index: int
    seed: int
    ids: tuple[int, ...]
    answer: str
    budget: int
    scoring: str
    recipe: str
    length: int | None = None
    depth: float | None = None
    distractors: int | None = None
    kind: str | None = None
    haystack: str | None = None
    document: int | None = None
    stop: tuple[str, ...] = ()


def needle_questions(grid: NeedleGrid, tokens: Tokens, seed: int) -> list[Question]:
    """The prompts of a grid, `grid.samples` for each length and depth.

    A prompt depends on its own seed, length, depth and index only, so a larger grid holds the same prompts.
    Raises InputError if the tokenizer lacks the format's words or has no chat template that the format needs.
    """
    fmt = grid.format
    haystack_ids = tokens.encode(grid.haystack)
    prefix_ids, suffix_ids = tokens.around(chat=fmt.chat)
    questions = []
    for length in grid.lengths:
        for depth in grid.depths:
            for index in range(grid.samples):
                rng = np.random.default_rng([seed, length, round(depth * 1000), index])
                prompt = evaluation_prompt(
                    fmt,
                    tokens.encode,
                    length=length,
                    depth=depth,
                    distractors=grid.distractors,
                    rng=rng,
                    haystack_ids=haystack_ids,
                    prefix_ids=prefix_ids,
                    suffix_ids=suffix_ids,
                )
                check_words(fmt, prompt, tokens)
                questions.append(needle_question(grid, prompt, depth=depth, index=index, seed=seed))
    return questions


def needle_question(
    grid: NeedleGrid, prompt: NeedlePrompt, *, depth: float, index: int, seed: int
) -> Question:
    """One cell's prompt; whatever the prompt does not use of its length is the answer's."""
    length = prompt.recipe["length"]
    answer_tokens = length - len(prompt.ids)
    return Question(
        suite="needle",
        task=grid.format.name,
        index=index,
        seed=seed,
        ids=tuple(prompt.ids),
        answer=prompt.answer,
        budget=answer_tokens + (WORDING if grid.format.scoring == "contains" else 0),
        scoring=grid.format.scoring,
        recipe=as_json(prompt.recipe),
        length=length,
        depth=depth,
        distractors=grid.distractors,
        stop=grid.format.stop,
    )


def check_words(fmt: NeedleFormat, prompt: NeedlePrompt, tokens: Tokens) -> None:
    """Raise InputError if the tokenizer cannot write the answer or read the needles and the question."""
    items = prompt.recipe["items"]
    texts = [fmt.question_text(items[0]["key"])]
    texts += [fmt.needle_text(item["key"], item["value"]) for item in items]
    for text in texts:
        if tokens.unknown(text):
            raise InputError(
                f"format {fmt.name}: the model's tokenizer lacks words of {text!r}",
                path=tokens.path,
                remedy="pass a --format written for this model",
            )
    check_answer(prompt.answer, tokens)


def check_answer(answer: str, tokens: Tokens) -> None:
    """Raise InputError if the tokenizer does not give the answer back, so that no model could score."""
    back = tokens.decode(tokens.encode(answer))
    if back.split() != answer.split():
        raise InputError(
            "the model's tokenizer cannot write the expected answer",
            path=tokens.path,
            expected=repr(answer),
            received=repr(back),
        )


def skill_questions(skill: Skill, tokens: Tokens, seed: int) -> list[Question]:
    """Lines of a skill file drawn by seed, in file order; `index` is the line, counted from 0."""
    count = len(skill.lines) if skill.samples is None else skill.samples
    drawn = np.random.default_rng(seed).permutation(len(skill.lines))[:count]
    prefix_ids, _ = tokens.around(chat=False)
    return [skill_question(skill, int(line), prefix_ids, tokens, seed) for line in sorted(drawn)]


def skill_question(skill: Skill, line: int, prefix_ids: Sequence[int], tokens: Tokens, seed: int) -> Question:
    """One line of a skill file."""
    prompt, answer = skill.lines[line]
    check_answer(answer, tokens)
    return Question(
        suite="skill",
        task=skill.name,
        index=line,
        seed=seed,
        ids=(*prefix_ids, *tokens.encode(prompt)),
        answer=answer,
        budget=len(tokens.encode(answer)),
        scoring="exact",
        recipe=as_json({"file": skill.file, "line": line, "sha256": skill.digest}),
    )


def as_json(recipe: dict[str, Any]) -> str:
    """A recipe as one line of JSON, keys sorted."""
    return json.dumps(recipe, sort_keys=True, ensure_ascii=False)
