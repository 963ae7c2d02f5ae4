"""Questions of RULER's tasks: drawn as recipes, assembled to the exact token.

`length` counts the prompt and what RULER reserves for the answer (`budget`), as RULER does.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from contextgraft.config.ruler_tasks import RULER_TASKS
from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import Tokens
from contextgraft.evaluation.questions import Question, as_json, check_answer, encoded_haystack, known_words
from contextgraft.evaluation.suites.spec import RulerSuite
from contextgraft.prompts.haystack import TokenizedHaystack
from contextgraft.prompts.needle_prompt import PromptTemplate, build_prompt, draw_prompt_spec
from contextgraft.prompts.ruler.qa import about_documents
from contextgraft.prompts.ruler.tasks import DEPTHS, LIST_TASKS, NEEDLE_TASKS, QA_TASKS, needle_pools
from contextgraft.prompts.ruler.word_lists import TaskBody, common_words, frequent_words
from contextgraft.prompts.sampling import NeedlePools
from contextgraft.prompts.tokens import cycle_tokens

LISTS = {"common_words": common_words, "frequent_words": frequent_words}


@dataclass(frozen=True)
class Desk:
    """A suite and the ids of its haystacks in one tokenizer."""

    suite: RulerSuite
    tokens: Tokens
    hays: dict[str, TokenizedHaystack]
    prefix_ids: list[int]

    @property
    def noise(self) -> list[int]:
        """What fills the few tokens that lists and documents leave."""
        return self.hays["noise"].ids


def desk(suite: RulerSuite, tokens: Tokens) -> Desk:
    """Encode the haystacks that the suite's tasks use; InputError if the tokenizer lacks their words."""
    used = {NEEDLE_TASKS[task].haystack for task in suite.tasks if task in NEEDLE_TASKS} | {"noise"}
    hays = {name: encoded_haystack(suite.haystacks[name], tokens) for name in sorted(used)}
    return Desk(suite, tokens, hays, tokens.around(chat=False)[0])


def ruler_questions(suite: RulerSuite, tokens: Tokens, seed: int) -> list[Question]:
    """The prompts of every task and length; each depends on its task, seed, length and index only."""
    at = desk(suite, tokens)
    questions = []
    for task in suite.tasks:
        digest = suite.digest(task)
        for length in suite.lengths:
            for index in range(suite.samples):
                recipe = DRAWINGS[form(task)](
                    at, task, length, [seed, length, RULER_TASKS.index(task), index]
                )
                whole = {**recipe, "task": task, "length": length, "digest": digest}
                questions.append(ruler_question(at, whole, index=index, seed=seed))
    return questions


def form(task: str) -> str:
    """Which way the task's prompts are made: a key of DRAWINGS and ASSEMBLIES."""
    return "needle" if task in NEEDLE_TASKS else "list" if task in LIST_TASKS else "qa"


def ruler_question(at: Desk, recipe: dict[str, Any], *, index: int, seed: int) -> Question:
    """One prompt from its recipe."""
    task = recipe["task"]
    question = ASSEMBLIES[form(task)](at, recipe)
    if len(question.ids) + question.budget != recipe["length"]:
        raise InputError(
            f"ruler {task}: the prompt does not fit the length",
            expected=f"at least {len(question.ids) + question.budget} tokens",
            received=recipe["length"],
            remedy="ask for a longer length",
        )
    return replace(question, index=index, document=index, seed=seed)


def draw_needles(at: Desk, task: str, length: int, seeds: list[int]) -> dict[str, Any]:
    """Needles at RULER's depths; a chain has a solved example of other names before it."""
    spec = NEEDLE_TASKS[task]
    rng = np.random.default_rng(seeds)
    source = needle_pools(task, at.suite.wording, dict(at.suite.haystacks))

    def draw(source: NeedlePools) -> dict[str, Any]:
        recipe = draw_prompt_spec(
            source,
            spec.kind,
            length=length,
            depths=(100 * int(rng.integers(DEPTHS)) / (DEPTHS - 1),),
            count=spec.needles,
            distractors=spec.distractors,
            rng=rng,
            offsets=at.hays[spec.haystack].offset_count,
        )
        return {**recipe, "asked": 0}

    if spec.kind != "chain":
        return draw(source)
    names, values = source.draw_keys(2 * spec.needles, rng), source.draw_values(2, rng)
    solved = draw(replace(source, keys=names[spec.needles :], values=values[1:]))["items"]
    return {**draw(replace(source, keys=names[: spec.needles], values=values[:1])), "example": solved}


def draw_list(_: Desk, task: str, __: int, seeds: list[int]) -> dict[str, Any]:
    """A list is drawn again from its seeds: its words would be as long as the prompt."""
    return {"kind": LIST_TASKS[task][0], "seeds": seeds}


def draw_qa(at: Desk, task: str, _: int, seeds: list[int]) -> dict[str, Any]:
    """Questions in an order drawn by seed, each once before any comes again."""
    seed, index = seeds[0], seeds[-1]
    items = at.suite.qa[task].items
    turn = np.random.default_rng([seed, index // len(items)]).permutation(len(items))
    return {"kind": "qa", "seeds": seeds, "item": int(turn[index % len(items)])}


DRAWINGS: dict[str, Callable[[Desk, str, int, list[int]], dict[str, Any]]] = {
    "needle": draw_needles,
    "list": draw_list,
    "qa": draw_qa,
}


def needle_prompt(at: Desk, recipe: dict[str, Any]) -> Question:
    """A retrieval or tracing task."""
    task = recipe["task"]
    spec = NEEDLE_TASKS[task]
    source = needle_pools(task, at.suite.wording, dict(at.suite.haystacks))
    frame = needle_frame(at, source, task)
    if "example" in recipe:
        frame = replace(frame, prefix_ids=[*frame.prefix_ids, *solved_example(frame, recipe)])
    prompt = build_prompt(frame, recipe)
    answers = [prompt.answer.strip()] if spec.kind == "single" else json.loads(prompt.answer)
    return blank(at, recipe, prompt.ids, answers, spec.budget)


def needle_frame(at: Desk, source: NeedlePools, task: str) -> PromptTemplate:
    """What the recipes of a needle task are assembled with."""
    spec = NEEDLE_TASKS[task]
    wording = getattr(at.suite.wording, spec.kind)
    encode = known_words(f"ruler {task}", at.tokens)
    return PromptTemplate(wording, source, encode, at.hays[spec.haystack], at.prefix_ids, (), spec.budget)


def solved_example(frame: PromptTemplate, recipe: dict[str, Any]) -> list[int]:
    """A short text with a chain of other names, its question and its answer."""
    wording, items = frame.wording, recipe["example"]
    noise = [f" {line}" for line in frame.haystack.haystack.text.splitlines()]
    text = "".join(noise[n % len(noise)] + wording.needle_text(item) for n, item in enumerate(items))
    asked = wording.question_text(items) + wording.answer_text(recipe["kind"], items)
    return frame.encode(f"{wording.intro}{text}{asked}\n\n")


def list_prompt(at: Desk, recipe: dict[str, Any]) -> Question:
    """Common or frequent words."""
    task, length = recipe["task"], recipe["length"]
    kind, pool, budget = LIST_TASKS[task]
    body = LISTS[kind](
        getattr(at.suite.wording, kind),
        known_words(f"ruler {task}", at.tokens),
        getattr(at.suite.wording.pools, pool),
        length=length,
        room=length - budget - len(at.prefix_ids),
        rng=np.random.default_rng(recipe["seeds"]),
    )
    return blank(at, recipe, padded(at, body, length - budget), body.answers, budget)


def qa_prompt(at: Desk, recipe: dict[str, Any]) -> Question:
    """A question about documents."""
    task, length, budget = recipe["task"], recipe["length"], QA_TASKS[recipe["task"]]
    data = at.suite.qa[task]
    body = about_documents(
        at.suite.wording.qa,
        at.tokens.encode,
        data,
        data.items[recipe["item"]],
        length=length,
        room=length - budget - len(at.prefix_ids),
        rng=np.random.default_rng(recipe["seeds"]),
    )
    return blank(at, recipe, padded(at, body, length - budget), body.answers, budget)


ASSEMBLIES: dict[str, Callable[[Desk, dict[str, Any]], Question]] = {
    "needle": needle_prompt,
    "list": list_prompt,
    "qa": qa_prompt,
}


def padded(at: Desk, body: TaskBody, length: int) -> list[int]:
    """Prefix, as much noise as makes the length exact, body."""
    gap = max(length - len(at.prefix_ids) - len(body.ids), 0)
    return [*at.prefix_ids, *cycle_tokens(at.noise, 0, gap), *body.ids]


def blank(at: Desk, recipe: dict[str, Any], ids: list[int], answers: list[str], budget: int) -> Question:
    """A question whose index and seed are still to be set; RULER wants all answers, of documents any."""
    task, kind = recipe["task"], recipe["kind"]
    if kind != "qa":
        check_answer(" ".join(answers), at.tokens)
    return Question(
        suite="ruler",
        task=task,
        index=0,
        seed=0,
        ids=tuple(ids),
        answer=answers[0] if kind == "single" else json.dumps(answers, ensure_ascii=False),
        budget=budget,
        scoring=SCORINGS.get(kind, "recall"),
        recipe=as_json(recipe),
        length=recipe["length"],
        distractors=len(recipe["items"]) - len(recipe["questions"][0]) if "items" in recipe else None,
        kind=kind,
        haystack=NEEDLE_TASKS[task].haystack if task in NEEDLE_TASKS else None,
    )


SCORINGS = {"single": "contains", "qa": "any"}  # all others: recall
