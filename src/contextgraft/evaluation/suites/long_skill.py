"""Whether a skill is kept where the prompt is long: a fine-tune's own prompts behind a long text.

The lines are drawn as those of the suite `skill`: the same `sample_index` pairs a long prompt with the short
one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from contextgraft.config.evaluation import EvaluationConfig, LongSkillSection
from contextgraft.config.target_sheet import JSONL
from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.questions import Question, encoded_haystack, json_line
from contextgraft.evaluation.suites.base import (
    PlannedPrompts,
    PromptSpec,
    QuestionSet,
    SampleRow,
    Suite,
    SuiteContent,
    required_lengths,
)
from contextgraft.evaluation.suites.skill_file import SkillFile, read_skill_file
from contextgraft.evaluation.suites.text_prompts import Text, read_text, text_name
from contextgraft.prompts.haystack import Haystack, TokenizedHaystack, fill_with_text
from contextgraft.prompts.seeded import seeded_generator

PLANNED_ANSWER = 16  # tokens


@dataclass(frozen=True)
class LongSkill(QuestionSet):
    """The prompts of a skill file, each behind as much of a text as makes `lengths` with its answer.

    `section` is the one of the configuration that names the lengths. The prompts of a length take turns
    behind `texts` texts; None: each has its own.
    """

    skill: SkillFile
    text: Text
    lengths: tuple[int, ...]
    section: str = "long_skill"
    texts: int | None = None
    suite: ClassVar[str] = "long_skill"

    @override
    def content(self) -> Any:
        shared = [] if self.texts is None else [self.texts]
        return [self.skill.content(), self.text.name, self.text.digest, self.lengths, *shared]

    @override
    def questions(self, tokenizer: PromptTokenizer, seed: int) -> list[Question]:
        """Every drawn line at every length; InputError for one that does not fit."""
        short = self.skill.questions(tokenizer, seed)
        return [replace(question, suite=self.suite) for question in self.behind_text(short, tokenizer, seed)]

    def behind_text(self, short: Sequence[Question], tokenizer: PromptTokenizer, seed: int) -> list[Question]:
        """Short questions at every length; InputError for one that does not fit."""
        haystack = self._haystack(tokenizer)
        questions = []
        for length in self.lengths:
            for number, question in enumerate(short):
                shared = {} if self.texts is None else {"document": number % self.texts}
                rng = seeded_generator([seed, length, shared.get("document", question.index)])
                spec = {"offset": int(rng.integers(haystack.offset_count)), "length": length, **shared}
                questions.append(self._behind(question, spec, haystack, tokenizer))
        return questions

    def behind(self, short: Question, spec: PromptSpec, tokenizer: PromptTokenizer) -> Question:
        """A short question behind the text of a recipe."""
        return self._behind(short, spec, self._haystack(tokenizer), tokenizer)

    @override
    def matches(self, row: SampleRow) -> bool:
        return self.skill.matches(row)

    @override
    def same_content(self, row: SampleRow, prompt_spec: PromptSpec) -> bool:
        same_text = self.text.digest == prompt_spec.get("text_sha256")
        return same_text and self.skill.same_content(row, prompt_spec)

    @override
    def rebuild(self, row: SampleRow, prompt_spec: dict[str, Any], tokenizer: PromptTokenizer) -> Question:
        short = self.skill.rebuild(row, prompt_spec, tokenizer)
        return replace(self.behind(short, prompt_spec, tokenizer), suite=self.suite)

    def _haystack(self, tokenizer: PromptTokenizer) -> TokenizedHaystack:
        return encoded_haystack(Haystack(self.text.name, self.text.content), tokenizer)

    def _behind(
        self, short: Question, spec: PromptSpec, haystack: TokenizedHaystack, tokenizer: PromptTokenizer
    ) -> Question:
        """The short question with the text between what begins a prompt and the prompt itself."""
        frame = tokenizer.prefix_suffix(chat=short.chat)
        length, begin = spec["length"], len(frame[0])
        fill = length - len(short.ids) - short.budget
        if fill < 0:
            raise InputError(
                f"skill {short.task}: a prompt does not fit the length",
                expected=f"at least {length - fill} tokens", received=length,
                remedy=f"choose longer lengths for {self.section}",
            )  # fmt: skip
        body = fill_with_text(haystack, spec["offset"], fill, 0, iter(())).body
        line = {"file": self.skill.file, "line": short.index, "sha256": self.skill.digest}
        chat = {"chat": self.skill.chat} if self.skill.chat else {}
        where = {key: spec[key] for key in ("offset", "length", "document") if key in spec}
        return replace(
            short,
            ids=(*short.ids[:begin], *body, *short.ids[begin:]),
            length=length,
            haystack=self.text.name,
            document=spec.get("document", short.index),
            prompt_spec=json_line({**line, **chat, **where, "text_sha256": self.text.digest}),
        )


def build_long_skills(config: EvaluationConfig) -> SuiteContent:
    """A question set for each skill file; tasks of lm-evaluation-harness have no long form."""
    section = config.long_skill or LongSkillSection()
    lengths = required_lengths("long_skill", "--lengths", section.lengths or config.needles.lengths)
    skills = long_skills(config, "long_skill", lengths, section.samples)
    return SuiteContent(tuple(replace(skill, texts=section.texts) for skill in skills))


def long_skills(
    config: EvaluationConfig, section: str, lengths: tuple[int, ...], samples: int
) -> list[LongSkill]:
    """The skill files of a configuration, at most `samples` lines of each, behind its text."""
    if not (config.skill and config.skill.skills):
        raise InputError(f"--suite {section} needs a skill file", remedy="pass --skill FILE.jsonl")
    text = read_text(text_name(config))
    files = [read_skill_file(Path(name), None, config.chat or False) for name in skill_file_names(config)]
    drawn = (replace(file, samples=min(samples, len(file.lines))) for file in files)
    return [LongSkill(file, text, lengths, section) for file in drawn]


def planned_prompts(config: EvaluationConfig) -> list[PlannedPrompts]:
    """A prompt reads the text that it shares with the one before only once, but for its own end."""
    section = config.long_skill or LongSkillSection()
    texts = min(section.texts or section.samples, section.samples)
    later = -(-section.samples // texts) - 1
    planned = []
    for length in section.lengths or config.needles.lengths or ():
        whole, end = (0, length), (max(0, length - 2 * PLANNED_ANSWER), length)
        alone, shared = (whole,) * (1 + later), (whole, *((end,) * later))
        documents = texts * max(1, len(skill_file_names(config)))
        planned.append(PlannedPrompts(length, documents, alone, shared, PLANNED_ANSWER))
    return planned


def narrow(config: EvaluationConfig, row: SampleRow) -> EvaluationConfig:
    """The same skills at the row's length."""
    return config.with_section("long_skill", lengths=[row["length"]], samples=1)


def skill_file_names(config: EvaluationConfig) -> Sequence[str]:
    """The skills of a configuration that are files of prompts and answers."""
    return [skill for skill in (config.skill.skills if config.skill else ()) if skill.endswith(JSONL)]


SUITE = Suite(build_long_skills, planned_prompts, narrow)
