"""Whether long answers end by themselves and do not repeat themselves, at short and at long prompts.

The prompts are those of the skill files, alone and behind a long text, as in the suite `long_skill`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from typing_extensions import override

from contextgraft.config.evaluation import EvaluationConfig, RepetitionSection
from contextgraft.errors import InputError
from contextgraft.evaluation.backends.base import GenerationRequest, NoResponse
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.questions import Question, ids_digest, json_line
from contextgraft.evaluation.suites.base import (
    LoadedModel,
    Measurement,
    PlannedPrompts,
    PromptSpec,
    SampleColumns,
    SampleRow,
    Suite,
    SuiteContent,
    exceeds_positions,
    largest_id,
    required_lengths,
    scored_row,
    unscored_row,
)
from contextgraft.evaluation.suites.long_skill import LongSkill, long_skills, skill_file_names

NGRAM = 4
ENDED = "ended"  # values of the column `scoring`
REPEATED = f"rep-{NGRAM}"
NO_END_TOKEN = "the model has no end token"


@dataclass(frozen=True)
class RepetitionMeasurement(Measurement):
    """Greedy answers of at most `tokens` tokens to the prompts of a skill file, short and at each length.

    An answer has two rows: whether an end token ended it, and the share of its 4-grams that occurred before
    in it. `spec` is the recipe of the only prompt that is measured, if not all are. Source: seq-rep-n of
    S. Welleck et al., Neural Text Generation with Unlikelihood Training (2019), arXiv 1908.04319, section 6.
    """

    skill: LongSkill
    tokens: int
    seed: int
    spec: str | None = None
    suite: ClassVar[str] = "repetition"

    @override
    def key(self) -> dict[str, Any]:
        return {
            "suite": self.suite, "skill": self.skill.content(), "tokens": self.tokens, "seed": self.seed,
            **({"recipe": self.spec} if self.spec else {}),
        }  # fmt: skip

    @override
    def check(self, tokenizer: PromptTokenizer) -> None:
        self.prompts(tokenizer)

    @override
    def __len__(self) -> int:
        skill = self.skill.skill
        return 1 if self.spec else (skill.samples or len(skill.lines)) * (1 + len(self.skill.lengths))

    @override
    def longest(self, tokenizer: PromptTokenizer) -> int:
        return max(len(prompt.ids) for prompt in self.prompts(tokenizer)) + self.tokens

    @override
    def answer_tokens(self) -> int:
        return len(self) * self.tokens

    @override
    def narrowed(self, row: SampleRow) -> "RepetitionMeasurement":
        spec = json.loads(row["recipe"])
        same_text = self.skill.text.digest == spec.get("text_sha256", self.skill.text.digest)
        if not (self.skill.matches(row) and self.skill.skill.same_content(row, spec) and same_text):
            raise InputError(
                "the skill file or the text is not what the row was measured on", received=row["task"],
                expected=row["recipe"], remedy="pass its --skill and its --text",
            )  # fmt: skip
        return replace(self, seed=row["seed"], tokens=spec["tokens"], spec=row["recipe"])

    @override
    def text(self, tokenizer: PromptTokenizer) -> str:
        return "\n".join(tokenizer.decode_all(prompt.ids) for prompt in self.prompts(tokenizer))

    @override
    def rows(self, loaded: LoadedModel, advance: Callable[[int], object] = int) -> list[SampleColumns]:
        """A prompt that torch cannot run fails; one that exceeds learned positions is truncated.

        A tokenizer with more tokens than the model has embedding rows raises MismatchError.
        """
        from contextgraft.evaluation.backends.generation import end_tokens
        from contextgraft.evaluation.backends.loading import check_vocabulary

        prompts = self.prompts(loaded.tokenizer)
        check_vocabulary(loaded.model, loaded.path, largest_id([prompt.ids for prompt in prompts]))
        ends = end_tokens(loaded.model, loaded.tokenizer.limited)
        too_long = [exceeds_positions(loaded.model, len(prompt.ids) + self.tokens) for prompt in prompts]
        rows = {
            index: [unscored_row(row, "truncated", reason) for row in self._blank(prompts[index])]
            for index, reason in enumerate(too_long)
            if reason is not None
        }
        waiting = [index for index in range(len(prompts)) if index not in rows]
        requests = [prompts[index].request for index in waiting]
        for number, answer in generated_ids(loaded, requests):
            prompt = prompts[waiting[number]]
            if isinstance(answer, NoResponse):
                scored = [unscored_row(row, answer.status, answer.reason) for row in self._blank(prompt)]
            else:
                scored = self._scored(prompt, answer, ends, loaded.tokenizer)
            rows[waiting[number]] = scored
            advance(1)
        return [row for index in sorted(rows) for row in rows[index]]

    @override
    def unscored_rows(self, tokenizer: PromptTokenizer, status: str, reason: str) -> list[SampleColumns]:
        blanks = [row for prompt in self.prompts(tokenizer) for row in self._blank(prompt)]
        return [unscored_row(row, status, reason) for row in blanks]

    def prompts(self, tokenizer: PromptTokenizer) -> list[Question]:
        """The short prompts, then those of each length; InputError for one that does not fit its length."""
        if self.spec:
            spec = json.loads(self.spec)
            short = self._short(self.skill.skill.at_line(spec["line"], tokenizer, self.seed))
            return [self._as_recorded(short, spec, tokenizer)]
        every = [self._short(question) for question in self.skill.skill.questions(tokenizer, self.seed)]
        long = self.skill.behind_text(every, tokenizer, self.seed)
        return [*every, *map(self._named, long)]

    def _as_recorded(self, short: Question, spec: PromptSpec, tokenizer: PromptTokenizer) -> Question:
        if "length" not in spec:
            return short
        return self._named(self.skill.behind(short, spec, tokenizer))

    def _short(self, question: Question) -> Question:
        return self._named(replace(question, budget=self.tokens))

    def _named(self, question: Question) -> Question:
        """The question with the number of tokens in its recipe."""
        spec = {**json.loads(question.prompt_spec), "tokens": self.tokens}
        return replace(question, suite=self.suite, prompt_spec=json_line(spec))

    def _blank(self, prompt: Question) -> list[SampleColumns]:
        common = {
            "suite": self.suite,
            "task": prompt.task,
            "haystack": prompt.haystack,
            "document": prompt.document,
            "length": prompt.length,
            "prompt_tokens": len(prompt.ids),
            "prompt_digest": ids_digest(prompt.ids),
            "chat": int(prompt.chat),
            "seed": self.seed,
            "sample_index": prompt.index,
            "recipe": prompt.prompt_spec,
        }
        return [{**common, "scoring": scoring} for scoring in (ENDED, REPEATED)]

    def _scored(
        self, prompt: Question, ids: Sequence[int], ends: frozenset[int], tokenizer: PromptTokenizer
    ) -> list[SampleColumns]:
        ended = bool(ids) and ids[-1] in ends
        answer = ids[:-1] if ended else ids
        output = {"output": tokenizer.decode(answer), "tokens": len(ids)}
        first, second = ({**row, **output} for row in self._blank(prompt))
        return [
            scored_row(first, float(ended)) if ends else unscored_row(first, "skipped", NO_END_TOKEN),
            scored_row(second, repeated_share(answer)),
        ]


def repeated_share(ids: Sequence[int], n: int = NGRAM) -> float:
    """The share of n-grams that occurred before; 0 for fewer than n tokens."""
    ngrams = [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def generated_ids(
    loaded: LoadedModel, requests: Sequence[GenerationRequest]
) -> Iterator[tuple[int, Sequence[int] | NoResponse]]:
    """Index and generated token ids of each request, the end token included."""
    from contextgraft.evaluation.backends.transformers import TransformersBackend

    longest = max((len(request.prompt_ids) + request.max_new_tokens for request in requests), default=1)
    backend = TransformersBackend(
        loaded.model, loaded.tokenizer.limited, batch_size=loaded.batch_size, longest=longest,
        prefill_chunk=loaded.prefill_chunk,
    )  # fmt: skip
    return backend.generations(requests)


def build_repetitions(config: EvaluationConfig) -> SuiteContent:
    """A measurement for each skill file; tasks of lm-evaluation-harness have no long form."""
    section = config.repetition or RepetitionSection()
    lengths = required_lengths("repetition", "--lengths", section.lengths or config.needles.lengths)
    skills = long_skills(config, "repetition", lengths, section.samples)
    return SuiteContent(
        measurements=tuple(
            RepetitionMeasurement(skill, section.tokens, config.common_seed) for skill in skills
        )
    )


def planned_prompts(config: EvaluationConfig) -> list[PlannedPrompts]:
    """The long prompts, each with a text of its own; the short ones, as long as an answer, with the first."""
    section = config.repetition or RepetitionSection()
    documents = section.samples * max(1, len(skill_file_names(config)))
    lengths = section.lengths or config.needles.lengths or ()
    reads = [(length, length) for length in lengths] + [(length, section.tokens) for length in lengths[:1]]
    return [
        PlannedPrompts(length, documents, ((0, read),), ((0, read),), section.tokens)
        for length, read in reads
    ]


def narrow(config: EvaluationConfig, row: SampleRow) -> EvaluationConfig:
    """The same skills; a short prompt has no length."""
    lengths = [row["length"]] if row["length"] else config.needles.lengths or [row["prompt_tokens"]]
    return config.with_section("repetition", lengths=lengths, samples=1)


SUITE = Suite(build_repetitions, planned_prompts, narrow)
