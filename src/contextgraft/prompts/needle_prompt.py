"""Prompts of an exact number of tokens, for any tokenizer; several questions may share one text.

Segments (haystack, needle, question) are tokenised separately and their ids joined, so lengths are exact for
word and byte-pair tokenizers alike. A prompt specification (a small JSON object with everything random) is
drawn first, and the prompt is built from it: the specification recorded with a sample rebuilds its prompt.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from contextgraft.errors import InputError
from contextgraft.prompts.generators import draw_distinct
from contextgraft.prompts.haystack import FILL_METHODS, Haystack, TokenizedHaystack
from contextgraft.prompts.needle_format import NeedleFormat
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS, SINGLE
from contextgraft.prompts.sampling import NeedlePools
from contextgraft.prompts.seeded import seeded_generator
from contextgraft.prompts.templates import Wording, expected_answers
from contextgraft.prompts.tokens import Encode, interleave, prompt_ending

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class NeedlePrompt:
    """Token ids of a prompt, the expected answer (several: a JSON list), and the specification of both."""

    ids: list[int]
    answer: str
    prompt_spec: dict[str, Any]


class QuestionPart(NamedTuple):
    """A question's ids, the number of tokens left for the answer, the answer as text and as it is scored."""

    ids: list[int]
    answer_tokens: int
    text: str
    answer: str


@dataclass(frozen=True)
class NeedleContext:
    """A text with its needles, and the questions about it.

    Every prompt is `shared`, then as much of `spare` as makes the length exact (`gaps`), then its question.
    """

    shared: list[int]
    spare: list[int]
    gaps: tuple[int, ...]
    questions: tuple[QuestionPart, ...]
    prompt_spec: dict[str, Any]

    def prompt(self, index: int) -> NeedlePrompt:
        """The prompt that ends with question number `index`."""
        question = self.questions[index]
        ids = [*self.shared, *self.spare[: self.gaps[index]], *question.ids]
        return NeedlePrompt(ids, question.answer, {**self.prompt_spec, "asked": index})


@dataclass(frozen=True)
class PromptTemplate:
    """What prompts of one kind have in common: wording, pools, tokenizer, haystack, first and last ids.

    `answer_tokens` are left for the answer; None means as many as the expected answer has.
    """

    wording: Wording
    pools: NeedlePools
    encode: Encode
    haystack: TokenizedHaystack
    prefix_ids: Sequence[int] = ()
    suffix_ids: Sequence[int] = ()
    answer_tokens: int | None = None


def draw_prompt_spec(
    pools: NeedlePools,
    kind: str,
    *,
    length: int,
    depths: Sequence[float],
    count: int,
    distractors: int,
    rng: "np.random.Generator",
    offsets: int,
) -> dict[str, Any]:
    """The specification of a text and its questions, as JSON values.

    `items` are the needles (key, value, position as a fraction of the filler), `questions` lists for each
    question the indices of its items, `length` counts the prompt with its answer in tokens, `offset` (below
    `offsets`) is where the haystack begins. `depths` are percentages; needle_kinds says what `count` and
    `distractors` are for each kind.
    """
    wrong = [depth for depth in depths if not 0 <= depth <= 100]
    if wrong:
        raise InputError("a depth must be a percentage", expected="0 to 100", received=wrong[0])
    items, questions = NEEDLE_KINDS[kind].sample(pools, depths, count, distractors, rng)
    return {
        "kind": kind,
        "length": length,
        "offset": int(rng.integers(offsets)),
        "items": items,
        "questions": questions,
    }


def build_context(template: PromptTemplate, prompt_spec: dict[str, Any]) -> NeedleContext:
    """The context of a specification.

    Needle positions are computed for the filler that the longest question leaves, so that all questions share
    the text; a shorter question has a few more filler tokens before it. Raises InputError when needles,
    question and answer alone exceed the length.
    """
    items, length = prompt_spec["items"], prompt_spec["length"]
    start = [*template.prefix_ids, *template.encode(template.wording.intro)]
    needles = [template.encode(template.wording.needle_text(item)) for item in items]
    questions = tuple(_question_part(template, prompt_spec, indices) for indices in prompt_spec["questions"])
    fixed = len(start) + sum(map(len, needles))
    fillers = [length - fixed - len(question.ids) - question.answer_tokens for question in questions]
    nominal = min(fillers)
    if nominal < 0:
        raise InputError(
            f"{template.pools.name}: the prompt does not fit the length",
            expected=f"at least {length - nominal} tokens",
            received=length,
            remedy="choose a longer length or fewer needles",
        )
    fill = FILL_METHODS[template.haystack.haystack.fill_method]
    others = _other_needles(template, prompt_spec)
    filler = fill(template.haystack, prompt_spec["offset"], nominal, max(fillers) - nominal, others)
    indices = [filler.insertion_index(item["at"]) for item in items]
    inserts = sorted(zip(indices, needles, strict=True), key=lambda insert: insert[0])
    return NeedleContext(
        shared=[*start, *interleave(filler.body, inserts)],
        spare=filler.spare,
        gaps=tuple(tokens - nominal for tokens in fillers),
        questions=questions,
        prompt_spec={name: value for name, value in prompt_spec.items() if name != "asked"},
    )


def _question_part(
    template: PromptTemplate, prompt_spec: dict[str, Any], indices: Sequence[int]
) -> QuestionPart:
    kind, wording = prompt_spec["kind"], template.wording
    items = [prompt_spec["items"][index] for index in indices]
    lead = wording.filled_lead(items)
    text = wording.answer_text(kind, items)
    if template.suffix_ids and not lead.strip():
        text = text.lstrip()  # it begins the turn
    ids = prompt_ending(template.encode, wording.filled_question(items), lead, template.suffix_ids)
    tokens = len(template.encode(text)) if template.answer_tokens is None else template.answer_tokens
    answers = expected_answers(kind, items)
    answer = text if NEEDLE_KINDS[kind].per_depth else json.dumps(answers, ensure_ascii=False)
    return QuestionPart(ids, tokens, text, answer)


def _other_needles(template: PromptTemplate, prompt_spec: dict[str, Any]) -> Iterator[list[int]]:
    """Endless needles whose keys, and values unless they repeat, differ from those of the specification."""
    pools = template.pools
    rng = seeded_generator([prompt_spec["offset"], prompt_spec["length"]])
    keys = {item["key"] for item in prompt_spec["items"]}
    values = {item.get("value") for item in prompt_spec["items"]}
    while True:
        (key,) = draw_distinct(pools.keys, 1, 1, rng, refuse=keys.__contains__)
        if NEEDLE_KINDS[prompt_spec["kind"]].repeats_values:
            value = pools.draw_label(rng)
        else:
            (value,) = draw_distinct(pools.values, pools.value_words, 1, rng, refuse=values.__contains__)
        item = pools.with_clue({"key": key, "value": value})
        yield template.encode(template.wording.needle_text(item))


def build_prompt(template: PromptTemplate, prompt_spec: dict[str, Any]) -> NeedlePrompt:
    """The prompt of a specification; its tokens and those of the answer are exactly the specified length."""
    return build_context(template, prompt_spec).prompt(prompt_spec["asked"])


def evaluation_prompt(
    fmt: NeedleFormat,
    encode: Encode,
    *,
    length: int,
    depth: float,
    distractors: int,
    rng: "np.random.Generator",
    haystack_ids: Sequence[int],
) -> NeedlePrompt:
    """One prompt with one needle at `depth` percent, drawn and built."""
    haystack = TokenizedHaystack(Haystack(fmt.haystack, ""), list(haystack_ids), [])
    template = PromptTemplate(fmt.wording(SINGLE), fmt.pools(), encode, haystack)
    prompt_spec = draw_prompt_spec(
        template.pools,
        SINGLE,
        length=length,
        depths=(depth,),
        count=1,
        distractors=distractors,
        rng=rng,
        offsets=len(haystack_ids),
    )
    return build_prompt(template, {**prompt_spec, "asked": 0})
