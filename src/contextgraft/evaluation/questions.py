"""What a model is asked: prompts as exact token ids, with the answer that is expected."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import Tokens
from contextgraft.evaluation.suites.spec import NeedleGrid, Skill
from contextgraft.prompts.haystack import Haystack, TokenizedHaystack, tokenize_haystack
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS
from contextgraft.prompts.needle_prompt import NeedlePrompt, PromptTemplate, build_context, draw_prompt_spec
from contextgraft.prompts.tokens import Encode

WORDING = 32  # tokens a model may spend around an answer that is only to be contained
UNKNOWN = 0.01  # share of a haystack that may be words the tokenizer lacks


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

    A text depends on its own seed, length and index only (and on the depths, where one text holds the needles
    of all), so a larger grid holds the same prompts. Raises InputError if the tokenizer lacks the format's
    words or has no chat template that the format needs.
    """
    frame, digest = grid_frame(grid, tokens), grid.digest()
    questions = []
    for length in grid.lengths:
        documents = [
            document(grid, frame, tokens, recipes, index=index, seed=seed)
            for index, recipes in enumerate(grid_recipes(grid, frame.haystack, length, digest, seed))
        ]
        questions += [question for cell in zip(*documents, strict=True) for question in cell]
    return questions


def grid_frame(grid: NeedleGrid, tokens: Tokens) -> PromptTemplate:
    """What the recipes of a grid are assembled with."""
    fmt = grid.format
    prefix_ids, suffix_ids = tokens.around(chat=fmt.chat)
    hay = encoded_haystack(grid.haystack, tokens)
    encode = known_words(f"format {fmt.name}", tokens)
    return PromptTemplate(fmt.wording(grid.kind), grid.source, encode, hay, prefix_ids, suffix_ids)


def grid_recipes(
    grid: NeedleGrid, hay: TokenizedHaystack, length: int, digest: str, seed: int
) -> list[list[dict[str, Any]]]:
    """The recipes of each sample's texts: one for all depths, or one for each that differ in it alone."""
    together = [grid.depths] if grid.shared else [(depth,) for depth in grid.depths]
    return [
        [
            {
                **draw_prompt_spec(
                    grid.source,
                    grid.kind,
                    length=length,
                    depths=depths,
                    count=grid.count,
                    distractors=grid.distractors,
                    rng=np.random.default_rng([seed, length, index]),
                    offsets=hay.offset_count,
                ),
                "format": grid.format.name,
                "haystack": grid.haystack.name,
                "digest": digest,
            }
            for depths in together
        ]
        for index in range(grid.samples)
    ]


def document(
    grid: NeedleGrid,
    frame: PromptTemplate,
    tokens: Tokens,
    recipes: Sequence[dict[str, Any]],
    *,
    index: int,
    seed: int,
) -> list[Question]:
    """All questions of one sample, in the order of the depths."""
    questions = []
    for recipe in recipes:
        context = build_context(frame, recipe)
        for position, question in enumerate(context.questions):
            check_answer(question.text, tokens)
            questions.append(needle_question(grid, context.prompt(position), index=index, seed=seed))
    return questions


def needle_question(grid: NeedleGrid, prompt: NeedlePrompt, *, index: int, seed: int) -> Question:
    """One prompt of a grid; whatever the prompt does not use of its length is the answer's."""
    recipe = prompt.prompt_spec
    asked = recipe["questions"][recipe["asked"]]
    single = NEEDLE_KINDS[grid.kind].per_depth
    scoring = grid.format.scoring if single else "recall"
    room = recipe["length"] - len(prompt.ids)
    return Question(
        suite="needle",
        task=grid.format.name,
        index=index,
        seed=seed,
        ids=tuple(prompt.ids),
        answer=prompt.answer,
        budget=room + (0 if scoring == "exact" else WORDING),
        scoring=scoring,
        recipe=as_json(recipe),
        length=recipe["length"],
        depth=round(100 * recipe["items"][asked[0]]["at"], 6) if single else None,
        distractors=len(recipe["items"]) - len(asked),
        kind=grid.kind,
        haystack=grid.haystack.name,
        document=index,
        stop=grid.format.stop,
    )


def encoded_haystack(haystack: Haystack, tokens: Tokens) -> TokenizedHaystack:
    """A haystack in ids; InputError if the tokenizer lacks more of its words than a rare one."""
    hay = tokenize_haystack(haystack, tokens.encode)
    unknown = hay.ids.count(tokens.tokenizer.unk_token_id)
    if not hay.ids or unknown > UNKNOWN * len(hay.ids):
        raise InputError(
            f"haystack {haystack.name}: the model's tokenizer lacks its words",
            path=tokens.path,
            expected=f"at most {UNKNOWN:.0%} unknown",
            received=f"{unknown} of {len(hay.ids)} tokens",
            remedy="pass a haystack written for this model",
        )
    return hay


def known_words(label: str, tokens: Tokens) -> Encode:
    """Encoding that raises InputError on a text whose words the tokenizer lacks."""
    unknown = tokens.tokenizer.unk_token_id

    def encode(text: str) -> list[int]:
        ids = tokens.encode(text)
        if unknown is not None and unknown in ids:
            raise InputError(
                f"{label}: the model's tokenizer lacks words of {text!r}",
                path=tokens.path,
                remedy="pass a wording made for this model",
            )
        return ids

    return encode


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
