"""RULER's tasks, as question sets. Source: Hsieh et al. 2024, arXiv 2404.06654."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from contextgraft.checkpoint.digest import json_digest
from contextgraft.config.evaluation import Chat, EvaluationConfig, RulerSection
from contextgraft.config.ruler_tasks import RULER_TASKS
from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.questions import Question
from contextgraft.evaluation.suites.base import (
    PlannedPrompts,
    PromptSpec,
    QuestionSet,
    SampleRow,
    Suite,
    SuiteContent,
    required_lengths,
)
from contextgraft.evaluation.suites.ruler_prompts import (
    DRAWINGS,
    RulerContext,
    encoded_haystacks,
    ruler_question,
    task_form,
)
from contextgraft.prompts.haystack import PLACEMENT, Haystack
from contextgraft.prompts.ruler.qa import QaDataset, read_dataset
from contextgraft.prompts.ruler.tasks import (
    LIST_TASKS,
    NEEDLE_TASKS,
    QA_TASKS,
    RulerWording,
    check_tasks,
    load_wording,
)

ANSWER_TOKENS = {  # most tokens of an answer, by task
    **{task: spec.budget for task, spec in NEEDLE_TASKS.items()},
    **{task: budget for task, (_, _, budget) in LIST_TASKS.items()},
    **QA_TASKS,
}


@dataclass(frozen=True)
class RulerGrid(QuestionSet):
    """Tasks of RULER by name, `samples` prompts per task and length; `qa` holds the data sets of qa tasks."""

    wording: RulerWording
    haystacks: Mapping[str, Haystack]
    tasks: tuple[str, ...]
    lengths: tuple[int, ...]
    samples: int
    qa: Mapping[str, QaDataset]
    chat: Chat = "auto"
    suite: ClassVar[str] = "ruler"

    def digest(self, task: str) -> str:
        """Digest of all that decides how a prompt specification of the task becomes a prompt."""
        haystacks = [[name, haystack.text] for name, haystack in sorted(self.haystacks.items())]
        data = self.qa[task].digest if task in self.qa else None
        return json_digest(
            {
                "wording": self.wording.model_dump() | {"pools": self.wording.pools.described()},
                "haystacks": haystacks,
                "data": data,
                "chat": self.chat,
                "placement": PLACEMENT,
            }
        )

    @override
    def content(self) -> dict[str, Any]:
        """Tasks with their wording and data, lengths and samples."""
        return {
            "tasks": {task: self.digest(task) for task in self.tasks},
            "order": self.tasks,
            "lengths": self.lengths,
            "samples": self.samples,
        }

    @override
    def questions(self, tokenizer: PromptTokenizer, seed: int) -> list[Question]:
        """The prompts of every task and length; each depends on its task, seed, length and index only."""
        context = self._context(tokenizer)
        questions = []
        for task in self.tasks:
            digest = self.digest(task)
            for length in self.lengths:
                for index in range(self.samples):
                    seeds = [seed, length, RULER_TASKS.index(task), index]
                    drawn = DRAWINGS[task_form(task)](context, task, length, seeds)
                    spec = {**drawn, "task": task, "length": length, "digest": digest}
                    questions.append(ruler_question(context, spec, index=index, seed=seed))
        return questions

    @override
    def matches(self, row: SampleRow) -> bool:
        """Whether the row's task is one of these."""
        return row["task"] in self.tasks

    @override
    def same_content(self, row: SampleRow, prompt_spec: PromptSpec) -> bool:
        """Whether the row was drawn with the same wording and data set."""
        return bool(self.digest(row["task"]) == prompt_spec["digest"])

    @override
    def rebuild(self, row: SampleRow, prompt_spec: dict[str, Any], tokenizer: PromptTokenizer) -> Question:
        context = self._context(tokenizer)
        return ruler_question(context, prompt_spec, index=row["sample_index"], seed=row["seed"])

    def _context(self, tokenizer: PromptTokenizer) -> RulerContext:
        tokenized = encoded_haystacks(self.tasks, self.haystacks, tokenizer)
        chat = tokenizer.uses_chat(self.chat)
        frame = tokenizer.prefix_suffix(chat=chat)
        return RulerContext(self.wording, self.haystacks, self.qa, tokenizer, tokenized, *frame, chat)


def read_ruler(
    *,
    lengths: tuple[int, ...],
    samples: int,
    tasks: tuple[str, ...] | None = None,
    wording: Path | None = None,
    qa: Mapping[str, Path] | None = None,
    chat: Chat = "auto",
) -> RulerGrid:
    """RULER's tasks; if none is named, all but the qa tasks without data. Raises InputError or ConfigError.

    `qa` maps qa_1 to a file in SQuAD's form, qa_2 to one in HotpotQA's; `wording` is a YAML file.
    """
    files = dict(qa or {})
    check_tasks(tuple(files), tuple(QA_TASKS))
    selected = tuple(task for task in RULER_TASKS if task not in QA_TASKS or task in files)
    if tasks is not None:
        check_tasks(tasks, RULER_TASKS)
        selected = tasks
    missing = [task for task in selected if task in QA_TASKS and task not in files]
    if missing:
        raise InputError(f"{missing[0]} needs a data set", remedy="give its file, or leave the task out")
    templates, haystacks = load_wording(wording)
    data = {task: read_dataset(task, files[task]) for task in selected if task in QA_TASKS}
    return RulerGrid(templates, haystacks, selected, lengths, samples, data, chat)


def build_tasks(config: EvaluationConfig) -> SuiteContent:
    """The tasks as one question set."""
    section = config.ruler or RulerSection()
    lengths = section.lengths or config.needles.lengths
    data = {"qa_1": section.qa_1, "qa_2": section.qa_2}
    grid = read_ruler(
        lengths=required_lengths("ruler", "--ruler-lengths", lengths),
        samples=section.samples or config.needles.samples,
        tasks=tuple(section.tasks) if section.tasks else None,
        qa={task: Path(file) for task, file in data.items() if file is not None},
        chat="auto" if config.chat is None else config.chat,
    )
    return SuiteContent((grid,))


def planned_prompts(config: EvaluationConfig) -> list[PlannedPrompts]:
    """Each prompt has a text of its own; each answer is as long as its task allows."""
    section = config.ruler or RulerSection()
    samples = section.samples or config.needles.samples
    return [
        PlannedPrompts(length, samples, ((0, length),), ((0, length),), ANSWER_TOKENS[task])
        for length in section.lengths or config.needles.lengths or ()
        for task in section.selected_tasks
    ]


def narrow(config: EvaluationConfig, row: SampleRow) -> EvaluationConfig:
    """The configuration with the row's task and length only."""
    return config.with_section("ruler", tasks=[row["task"]], lengths=[row["length"]], samples=1)


SUITE = Suite(build_tasks, planned_prompts, narrow)
