"""Prompts of RULER's tasks: drawn as prompt specifications, assembled to the token.

`length` counts the prompt and what RULER reserves for the answer (`budget`), as RULER does.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.questions import (
    Question,
    check_answer,
    checked_encode,
    encoded_haystack,
    json_line,
)
from contextgraft.prompts.haystack import Haystack, TokenizedHaystack
from contextgraft.prompts.needle_prompt import PromptTemplate, build_prompt, draw_prompt_spec
from contextgraft.prompts.ruler.qa import QaDataset, about_documents
from contextgraft.prompts.ruler.tasks import (
    LIST_TASKS,
    NEEDLE_TASKS,
    QA_TASKS,
    RulerWording,
    needle_pools,
    needle_wording,
)
from contextgraft.prompts.ruler.word_lists import TaskBody, common_words, frequent_words
from contextgraft.prompts.sampling import NeedlePools
from contextgraft.prompts.seeded import seeded_generator
from contextgraft.prompts.tokens import cycle_tokens

LISTS = {"common_words": common_words, "frequent_words": frequent_words}
SCORINGS = {"single": "contains", "qa": "any"}  # all others: recall


@dataclass(frozen=True)
class RulerContext:
    """Wording and data of RULER's tasks, its haystacks in the ids of one tokenizer, and the chat template.

    `chat`: whether prompts are in the chat template, which may have no ids behind the message.
    """

    wording: RulerWording
    haystacks: Mapping[str, Haystack]
    qa: Mapping[str, QaDataset]
    tokenizer: PromptTokenizer
    tokenized: Mapping[str, TokenizedHaystack]
    prefix_ids: Sequence[int]
    suffix_ids: Sequence[int] = ()
    chat: bool = False

    @property
    def noise(self) -> list[int]:
        """What fills the few tokens that lists and documents leave."""
        return self.tokenized["noise"].ids


def encoded_haystacks(
    tasks: Sequence[str], haystacks: Mapping[str, Haystack], tokenizer: PromptTokenizer
) -> dict[str, TokenizedHaystack]:
    """The haystacks that the tasks use, in ids; InputError if the tokenizer lacks their words."""
    used = {NEEDLE_TASKS[task].haystack for task in tasks if task in NEEDLE_TASKS} | {"noise"}
    return {name: encoded_haystack(haystacks[name], tokenizer) for name in sorted(used)}


def task_form(task: str) -> str:
    """How the task's prompts are made: a key of DRAWINGS and ASSEMBLIES."""
    return "needle" if task in NEEDLE_TASKS else "list" if task in LIST_TASKS else "qa"


def ruler_question(context: RulerContext, prompt_spec: dict[str, Any], *, index: int, seed: int) -> Question:
    """One prompt from its prompt_spec."""
    task = prompt_spec["task"]
    question = ASSEMBLIES[task_form(task)](context, prompt_spec)
    if len(question.ids) + question.budget != prompt_spec["length"]:
        raise InputError(
            f"ruler {task}: the prompt does not fit the length",
            expected=f"at least {len(question.ids) + question.budget} tokens",
            received=prompt_spec["length"],
            remedy="choose a longer length",
        )
    return replace(question, index=index, document=index, seed=seed)


def draw_needles(context: RulerContext, task: str, length: int, seeds: list[int]) -> dict[str, Any]:
    """Needles at RULER's depths; a chain has a solved example of other names before it."""
    spec = NEEDLE_TASKS[task]
    rng = seeded_generator(seeds)
    pools = needle_pools(task, context.wording, dict(context.haystacks))

    def draw(pools: NeedlePools) -> dict[str, Any]:
        prompt_spec = draw_prompt_spec(
            pools,
            spec.kind,
            length=length,
            depths=(100 * pools.positions(rng, 1)[0],),
            count=spec.needles,
            distractors=spec.distractors,
            rng=rng,
            offsets=context.tokenized[spec.haystack].offset_count,
        )
        return {**prompt_spec, "asked": 0}

    if spec.kind != "chain":
        return draw(pools)
    names, values = pools.draw_keys(2 * spec.needles, rng), pools.draw_values(2, rng)
    solved = draw(replace(pools, keys=names[spec.needles :], values=values[1:]))["items"]
    return {**draw(replace(pools, keys=names[: spec.needles], values=values[:1])), "example": solved}


def draw_list(_: RulerContext, task: str, __: int, seeds: list[int]) -> dict[str, Any]:
    """Only the seeds: the words of a list would be as long as the prompt."""
    return {"kind": LIST_TASKS[task][0], "seeds": seeds}


def draw_qa(context: RulerContext, task: str, _: int, seeds: list[int]) -> dict[str, Any]:
    """Questions in an order drawn by seed, each once before any is repeated."""
    seed, index = seeds[0], seeds[-1]
    items = context.qa[task].items
    order = seeded_generator([seed, index // len(items)]).permutation(len(items))
    return {"kind": "qa", "seeds": seeds, "item": int(order[index % len(items)])}


DRAWINGS: dict[str, Callable[[RulerContext, str, int, list[int]], dict[str, Any]]] = {
    "needle": draw_needles,
    "list": draw_list,
    "qa": draw_qa,
}


def needle_prompt(context: RulerContext, prompt_spec: dict[str, Any]) -> Question:
    """A retrieval or tracing task."""
    task = prompt_spec["task"]
    spec = NEEDLE_TASKS[task]
    pools = needle_pools(task, context.wording, dict(context.haystacks))
    template = needle_template(context, pools, task)
    if "example" in prompt_spec:
        template = replace(
            template, prefix_ids=[*template.prefix_ids, *solved_example(template, prompt_spec)]
        )
    prompt = build_prompt(template, prompt_spec)
    answers = [prompt.answer.strip()] if spec.kind == "single" else json.loads(prompt.answer)
    return unnumbered_question(context, prompt_spec, prompt.ids, answers, spec.budget)


def needle_template(context: RulerContext, pools: NeedlePools, task: str) -> PromptTemplate:
    """What the prompt specifications of a needle task are assembled with."""
    spec = NEEDLE_TASKS[task]
    encode = checked_encode(f"ruler {task}", context.tokenizer)
    return PromptTemplate(
        needle_wording(task, context.wording), pools, encode, context.tokenized[spec.haystack],
        context.prefix_ids, context.suffix_ids, spec.budget,
    )  # fmt: skip


def solved_example(template: PromptTemplate, prompt_spec: dict[str, Any]) -> list[int]:
    """A short text with a chain of other names, its question and its answer."""
    wording, items = template.wording, prompt_spec["example"]
    noise = f"\n{template.haystack.haystack.text}"
    text = "".join(noise + wording.needle_text(item) for item in items)
    solved = wording.question_text(items) + wording.answer_text(prompt_spec["kind"], items)
    return template.encode(f"{wording.intro}{text}{solved}\n\n")


def list_prompt(context: RulerContext, prompt_spec: dict[str, Any]) -> Question:
    """The question of a `cwe` or `fwe` task: a list of words, the commonest of which are the answer."""
    task, length = prompt_spec["task"], prompt_spec["length"]
    kind, pool, budget = LIST_TASKS[task]
    body = LISTS[kind](
        getattr(context.wording, kind),
        checked_encode(f"ruler {task}", context.tokenizer),
        context.wording.pools.drawn_from(pool),
        length=length,
        max_tokens=length - budget - len(context.prefix_ids),
        rng=seeded_generator(prompt_spec["seeds"]),
        suffix_ids=context.suffix_ids,
    )
    return unnumbered_question(
        context, prompt_spec, padded(context, body, length - budget), body.answers, budget
    )


def qa_prompt(context: RulerContext, prompt_spec: dict[str, Any]) -> Question:
    """A question about documents."""
    task, length, budget = prompt_spec["task"], prompt_spec["length"], QA_TASKS[prompt_spec["task"]]
    data = context.qa[task]
    body = about_documents(
        context.wording.qa,
        context.tokenizer.encode,
        data,
        data.items[prompt_spec["item"]],
        length=length,
        max_tokens=length - budget - len(context.prefix_ids),
        rng=seeded_generator(prompt_spec["seeds"]),
        suffix_ids=context.suffix_ids,
    )
    return unnumbered_question(
        context, prompt_spec, padded(context, body, length - budget), body.answers, budget
    )


ASSEMBLIES: dict[str, Callable[[RulerContext, dict[str, Any]], Question]] = {
    "needle": needle_prompt,
    "list": list_prompt,
    "qa": qa_prompt,
}


def padded(context: RulerContext, body: TaskBody, length: int) -> list[int]:
    """Prefix, as much noise as makes the length exact, body."""
    gap = max(length - len(context.prefix_ids) - len(body.ids), 0)
    return [*context.prefix_ids, *cycle_tokens(context.noise, 0, gap), *body.ids]


def unnumbered_question(
    context: RulerContext, prompt_spec: dict[str, Any], ids: list[int], answers: list[str], budget: int
) -> Question:
    """A question without its index and seed; RULER scores all answers, for qa any of them."""
    task, kind = prompt_spec["task"], prompt_spec["kind"]
    if kind != "qa":
        check_answer(" ".join(answers), context.tokenizer)
    return Question(
        suite="ruler",
        task=task,
        index=0,
        seed=0,
        ids=tuple(ids),
        answer=answers[0] if kind == "single" else json.dumps(answers, ensure_ascii=False),
        budget=budget,
        scoring=SCORINGS.get(kind, "recall"),
        prompt_spec=json_line(prompt_spec),
        length=prompt_spec["length"],
        distractors=len(prompt_spec["items"]) - len(prompt_spec["questions"][0])
        if "items" in prompt_spec
        else None,
        kind=kind,
        haystack=NEEDLE_TASKS[task].haystack if task in NEEDLE_TASKS else None,
        chat=context.chat,
    )
