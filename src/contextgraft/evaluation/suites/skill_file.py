"""A fine-tune's skill as a JSONL file: one prompt and its expected continuation per line."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from contextgraft.checkpoint.digest import file_digest
from contextgraft.config.evaluation import Chat
from contextgraft.config.text_file import beside, not_readable, read_text_file, split_lines
from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.questions import Question, check_answer, json_line
from contextgraft.evaluation.suites.base import PromptSpec, QuestionSet, SampleRow
from contextgraft.prompts.seeded import seeded_generator


@dataclass(frozen=True)
class SkillFile(QuestionSet):
    """Prompts and answers of a file; `samples` of them are drawn by seed, all are used if it is None."""

    name: str
    file: str
    digest: str
    lines: tuple[tuple[str, str], ...]
    samples: int | None
    chat: Chat = False
    suite: ClassVar[str] = "skill"

    @override
    def content(self) -> list[Any]:
        """Name and digest of the file, how many lines are drawn, and the template if there may be one."""
        return [self.name, self.digest, self.samples, *([{"chat": self.chat}] if self.chat else [])]

    @override
    def questions(self, tokenizer: PromptTokenizer, seed: int) -> list[Question]:
        """Lines drawn by seed, in file order; `index` is the line, counted from 0."""
        count = len(self.lines) if self.samples is None else self.samples
        drawn = seeded_generator(seed).permutation(len(self.lines))[:count]
        frame = tokenizer.prefix_suffix(chat=tokenizer.uses_chat(self.chat))
        return [self._question(int(line), frame, tokenizer, seed) for line in sorted(drawn)]

    @override
    def matches(self, row: SampleRow) -> bool:
        """Whether a row has the file's name, without its suffix."""
        return bool(self.name == row["task"])

    @override
    def same_content(self, row: SampleRow, prompt_spec: PromptSpec) -> bool:
        """Whether the row was drawn from a file of the same bytes."""
        return bool((self.digest, self.chat) == (prompt_spec.get("sha256"), prompt_spec.get("chat", False)))

    @override
    def rebuild(self, row: SampleRow, prompt_spec: dict[str, Any], tokenizer: PromptTokenizer) -> Question:
        return self.at_line(prompt_spec["line"], tokenizer, row["seed"])

    def at_line(self, line: int, tokenizer: PromptTokenizer, seed: int) -> Question:
        """The question of one line, counted from 0."""
        frame = tokenizer.prefix_suffix(chat=tokenizer.uses_chat(self.chat))
        return self._question(line, frame, tokenizer, seed)

    def _question(
        self,
        line: int,
        frame: tuple[Sequence[int], Sequence[int]],
        tokenizer: PromptTokenizer,
        seed: int,
    ) -> Question:
        prompt, answer = self.lines[line]
        check_answer(answer, tokenizer)
        chat = tokenizer.uses_chat(self.chat)
        written = answer.lstrip() if chat else answer  # begins a turn of its own, so without a space
        spec = {"file": self.file, "line": line, "sha256": self.digest}
        return Question(
            suite=self.suite,
            task=self.name,
            index=line,
            seed=seed,
            ids=(*frame[0], *tokenizer.encode(prompt), *frame[1]),
            answer=answer,
            budget=len(tokenizer.encode(written)),
            scoring="exact",
            prompt_spec=json_line({**spec, "chat": self.chat} if self.chat else spec),
            chat=chat,
        )


def read_skill_file(path: Path, samples: int | None = None, chat: Chat = False) -> SkillFile:
    """A skill from JSONL, one {"prompt", "answer"} per line; raises InputError naming the line."""
    try:
        text = read_text_file(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "cannot read the skill file", path=path, expected='lines of {"prompt": ..., "answer": ...}',
            received=not_readable(error, path), remedy=beside(path) or "check the path",
        ) from None  # fmt: skip
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
    return SkillFile(path.stem, path.name, file_digest(path), lines, samples, chat)


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
