"""A fine-tune's skill as a JSONL file: one prompt and its expected continuation per line."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from contextgraft.checkpoint.digest import file_digest
from contextgraft.config.text_file import read_text_file, split_lines
from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.questions import Question, check_answer, json_line
from contextgraft.evaluation.suites.base import PromptSpec, QuestionSet, SampleRow
from contextgraft.prompts.seeded import seeded_generator

JSONL = ".jsonl"  # suffix of skill files; every other skill is a task of lm-eval


@dataclass(frozen=True)
class SkillFile(QuestionSet):
    """Prompts and answers of a file; `samples` of them are drawn by seed, all are used if it is None."""

    name: str
    file: str
    digest: str
    lines: tuple[tuple[str, str], ...]
    samples: int | None
    suite: ClassVar[str] = "skill"

    @override
    def content(self) -> list[Any]:
        """Name and digest of the file, and how many lines are drawn."""
        return [self.name, self.digest, self.samples]

    @override
    def questions(self, tokenizer: PromptTokenizer, seed: int) -> list[Question]:
        """Lines drawn by seed, in file order; `index` is the line, counted from 0."""
        count = len(self.lines) if self.samples is None else self.samples
        drawn = seeded_generator(seed).permutation(len(self.lines))[:count]
        prefix_ids, _ = tokenizer.prefix_suffix(chat=False)
        return [self._question(int(line), prefix_ids, tokenizer, seed) for line in sorted(drawn)]

    @override
    def matches(self, row: SampleRow) -> bool:
        """Whether a row has the file's name, without its suffix."""
        return bool(self.name == row["task"])

    @override
    def same_content(self, row: SampleRow, prompt_spec: PromptSpec) -> bool:
        """Whether the row was drawn from a file of the same bytes."""
        return bool(self.digest == prompt_spec.get("sha256"))

    @override
    def rebuild(self, row: SampleRow, prompt_spec: dict[str, Any], tokenizer: PromptTokenizer) -> Question:
        prefix_ids, _ = tokenizer.prefix_suffix(chat=False)
        return self._question(prompt_spec["line"], prefix_ids, tokenizer, row["seed"])

    def _question(
        self, line: int, prefix_ids: Sequence[int], tokenizer: PromptTokenizer, seed: int
    ) -> Question:
        prompt, answer = self.lines[line]
        check_answer(answer, tokenizer)
        return Question(
            suite=self.suite,
            task=self.name,
            index=line,
            seed=seed,
            ids=(*prefix_ids, *tokenizer.encode(prompt)),
            answer=answer,
            budget=len(tokenizer.encode(answer)),
            scoring="exact",
            prompt_spec=json_line({"file": self.file, "line": line, "sha256": self.digest}),
        )


def read_skill_file(path: Path, samples: int | None = None) -> SkillFile:
    """A skill from JSONL, one {"prompt", "answer"} per line; raises InputError naming the line."""
    try:
        text = read_text_file(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot read the skill file", path=path, received=str(error)) from None
    numbered = [(n, line) for n, line in enumerate(split_lines(text), 1) if line.strip()]
    lines = tuple(read_line(path, n, line) for n, line in numbered)
    if not lines:
        raise InputError("the skill file is empty", path=path)
    if samples is not None and samples > len(lines):
        raise InputError(
            "the skill file has fewer lines than samples requested",
            path=path,
            expected=samples,
            received=len(lines),
        )
    return SkillFile(path.stem, path.name, file_digest(path), lines, samples)


def read_line(path: Path, number: int, line: str) -> tuple[str, str]:
    """Prompt and answer of one line of JSON."""
    try:
        item: Any = json.loads(line)
    except ValueError:
        item = None
    item = item if isinstance(item, dict) else {}
    prompt, answer = item.get("prompt"), item.get("answer")
    if not (isinstance(prompt, str) and isinstance(answer, str) and prompt.strip() and answer.strip()):
        raise InputError(
            f"line {number} is not a prompt with its answer",
            path=path,
            expected='{"prompt": text, "answer": text}',
            received=line[:60],
        )
    return prompt, answer
