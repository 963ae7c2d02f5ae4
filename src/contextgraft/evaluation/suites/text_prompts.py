"""Texts as token ids to be predicted: windows of exact length, or the lines of a skill file."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from typing_extensions import override

from contextgraft.config.evaluation import EvaluationConfig
from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.questions import ids_digest, json_line
from contextgraft.evaluation.suites.base import Measurement, SampleColumns, SampleRow
from contextgraft.evaluation.suites.skill_file import SkillFile
from contextgraft.prompts.haystack import SHIPPED_TEXTS, read_haystack
from contextgraft.prompts.needle_format import load_format
from contextgraft.prompts.seeded import seeded_generator

DEFAULT_TEXT = "moby_dick_eval"
Frame = tuple[Sequence[int], Sequence[int]]  # ids before and behind a prompt


@dataclass(frozen=True)
class Text:
    """A text by name; `digest` is the sha256 of its UTF-8."""

    name: str
    digest: str
    content: str


@dataclass(frozen=True)
class TextPrompt:
    """Token ids, beginning with a begin token if the tokenizer adds one; `prompt_spec` rebuilds them."""

    ids: tuple[int, ...]
    document: int
    prompt_spec: str

    @property
    def digest(self) -> str:
        """Digest of the token ids: the column `prompt_digest`."""
        return ids_digest(self.ids)


class PromptSource(Protocol):
    """A text or skill file from which prompts are made."""

    @property
    def name(self) -> str:
        """The name of the text: column `task` of the rows."""

    @property
    def seed(self) -> int:
        """The seed by which prompts are drawn."""

    def key(self) -> dict[str, Any]:
        """JSON of all that decides the prompts."""

    def __len__(self) -> int:
        """The number of prompts."""

    def prompts(self, tokenizer: PromptTokenizer) -> list[TextPrompt]:
        """All prompts; InputError if they cannot be made."""

    def narrowed(self, row: SampleRow) -> "PromptSource":
        """The source of the one prompt of a row; InputError if the row is of another text."""


@dataclass(frozen=True)
class ReplayPrompt:
    """The prompt of one row; `make` builds it from the row's specification."""

    name: str
    seed: int
    prompt_spec: str
    make: Callable[[PromptTokenizer], TextPrompt]

    def key(self) -> dict[str, Any]:
        """JSON of all that decides the prompt: the row's specification."""
        return {"recipe": self.prompt_spec}

    def __len__(self) -> int:
        """One prompt."""
        return 1

    def prompts(self, tokenizer: PromptTokenizer) -> list[TextPrompt]:
        """The prompt, built with this tokenizer."""
        return [self.make(tokenizer)]

    def narrowed(self, row: SampleRow) -> "ReplayPrompt":
        """The same source, if it is that of the row; else InputError."""
        if row["recipe"] != self.prompt_spec:
            raise InputError(
                f"{self.name} is not what the row was measured on",
                expected=row["recipe"],
                received=self.prompt_spec,
            )
        return self


@dataclass(frozen=True)
class TextWindows:
    """`count` windows of a text, each of exactly `length` tokens with its begin token or its chat template.

    The possible beginnings are divided into `count` equal ranges, and one window begins at random in each:
    windows are spread over the text, and overlap only if it is short.
    """

    text: Text
    length: int
    count: int
    seed: int
    chat: bool = False

    @property
    def name(self) -> str:
        """Name of the text: the column `task` of the rows."""
        return f"{self.text.name} (chat)" if self.chat else self.text.name

    def key(self) -> dict[str, Any]:
        """Text, length, number and seed, and whether windows are messages of a chat."""
        size = {"length": self.length, "count": self.count, "seed": self.seed}
        chat = {"chat": True} if self.chat else {}
        return {"text": [self.text.name, self.text.digest], **size, **chat}

    def __len__(self) -> int:
        """How many windows."""
        return self.count

    def prompts(self, tokenizer: PromptTokenizer) -> list[TextPrompt]:
        """The windows; InputError if the text is too short or has words that the tokenizer lacks."""
        frame = tokenizer.prefix_suffix(chat=self.chat)
        ids = tokenizer.encode(self.text.content)
        taken = self.length - sum(map(len, frame))
        self._check(ids, taken, tokenizer)
        starts = self._starts(len(ids) - taken + 1)
        return [self._window(ids, frame, start, taken, number) for number, start in enumerate(starts)]

    def narrowed(self, row: SampleRow) -> ReplayPrompt:
        """The window of a row; InputError if it is of another text."""
        spec = matching_spec(self.name, self.text.digest, row)

        def make(tokenizer: PromptTokenizer) -> TextPrompt:
            frame = tokenizer.prefix_suffix(chat=self.chat)
            ids = tokenizer.encode(self.text.content)
            return self._window(ids, frame, spec["offset"], spec["tokens"], row["document"])

        return ReplayPrompt(self.name, row["seed"], row["recipe"], make)

    def _window(self, ids: Sequence[int], frame: Frame, start: int, taken: int, document: int) -> TextPrompt:
        spec: dict[str, Any] = {
            "text": self.text.name,
            "sha256": self.text.digest,
            "offset": start,
            "tokens": taken,
        }
        spec |= {"chat": True} if self.chat else {}
        window = (*frame[0], *ids[start : start + taken], *frame[1])
        return TextPrompt(window, document, json_line(spec))

    def _starts(self, beginnings: int) -> list[int]:
        shares = seeded_generator([self.seed, self.length, self.count]).random(self.count)
        return [int((part + share) * beginnings / self.count) for part, share in enumerate(shares)]

    def _check(self, ids: Sequence[int], taken: int, tokenizer: PromptTokenizer) -> None:
        if taken < 2:
            raise InputError("a window has too few tokens", expected="3 or more", received=self.length)
        if len(ids) < taken + self.count - 1:
            raise InputError(
                f"the text {self.text.name} is too short for {self.count} windows",
                expected=f"{taken + self.count - 1} tokens or more",
                received=len(ids),
                remedy="pass a longer --text, or shorter or fewer windows",
            )
        if tokenizer.hf.unk_token_id is not None and tokenizer.hf.unk_token_id in ids:
            raise InputError(
                f"the text {self.text.name} has words that the model's tokenizer lacks",
                path=tokenizer.path,
                remedy="give a --text written for this model",
            )


@dataclass(frozen=True)
class SkillLines:
    """Lines of a skill file, prompt and answer as one text; `count` drawn by seed, all of them if None."""

    skill: SkillFile
    count: int | None
    seed: int

    @property
    def name(self) -> str:
        """Name of the skill: the column `task` of the rows."""
        return self.skill.name

    def key(self) -> dict[str, Any]:
        """SkillFile, number and seed."""
        return {"skill": [self.skill.name, self.skill.digest], "count": self.count, "seed": self.seed}

    def __len__(self) -> int:
        """How many lines."""
        return len(self.skill.lines) if self.count is None else self.count

    def prompts(self, tokenizer: PromptTokenizer) -> list[TextPrompt]:
        """The lines in the order of the file; InputError if there are fewer than requested."""
        if len(self) > len(self.skill.lines):
            raise InputError(
                f"the skill {self.name} has fewer lines than prompts requested",
                expected=self.count,
                received=len(self.skill.lines),
            )
        drawn = seeded_generator(self.seed).permutation(len(self.skill.lines))[: len(self)]
        before, _ = tokenizer.prefix_suffix(chat=False)
        return [self._prompt(int(line), before, tokenizer) for line in sorted(drawn)]

    def narrowed(self, row: SampleRow) -> ReplayPrompt:
        """The line of a row; InputError if it is of another file."""
        line = matching_spec(self.name, self.skill.digest, row)["line"]
        return ReplayPrompt(
            self.name,
            row["seed"],
            row["recipe"],
            lambda tokenizer: self._prompt(line, tokenizer.prefix_suffix(chat=False)[0], tokenizer),
        )

    def _prompt(self, line: int, before: Sequence[int], tokenizer: PromptTokenizer) -> TextPrompt:
        prompt, answer = self.skill.lines[line]
        ids = (*before, *tokenizer.encode(prompt), *tokenizer.encode(answer))
        spec = {"file": self.skill.file, "line": line, "sha256": self.skill.digest}
        return TextPrompt(ids, line, json_line(spec))


@dataclass(frozen=True)
class TextMeasurement(Measurement):
    """What measurements on the prompts of a text or skill file have in common."""

    source: PromptSource

    @override
    def key(self) -> dict[str, Any]:
        return {"suite": self.suite, **self.source.key()}

    @override
    def check(self, tokenizer: PromptTokenizer) -> None:
        self.source.prompts(tokenizer)

    @override
    def __len__(self) -> int:
        return len(self.source)

    @override
    def text(self, tokenizer: PromptTokenizer) -> str:
        """All prompts as text, special tokens too."""
        return "\n".join(tokenizer.decode_all(prompt.ids) for prompt in self.source.prompts(tokenizer))

    def prompt_columns(self, prompt: TextPrompt) -> SampleColumns:
        """The columns of a row that follow from its prompt."""
        return {
            "suite": self.suite,
            "task": self.source.name,
            "document": prompt.document,
            "length": len(prompt.ids),
            "prompt_tokens": len(prompt.ids),
            "prompt_digest": prompt.digest,
            "seed": self.source.seed,
            "sample_index": prompt.document,
            "recipe": prompt.prompt_spec,
        }


def matching_spec(name: str, digest: str, row: SampleRow) -> dict[str, Any]:
    """The recipe of a row; InputError if it is not of the text or file with that name and sha256."""
    spec: dict[str, Any] = json.loads(row["recipe"])
    if (row["task"], spec["sha256"]) != (name, digest):
        raise InputError(
            "the text is not what the row was measured on",
            expected=f"{row['task']}, sha256 {spec['sha256']}",
            received=f"{name}, sha256 {digest}",
            remedy="give its file with --text",
        )
    return spec


def read_text(name: str) -> Text:
    """A shipped text by name, or a file from the working directory; InputError if there is neither."""
    content = read_haystack(name, Path())
    return Text(Path(name).stem, sha256(content.encode()).hexdigest(), content)


def text_name(config: EvaluationConfig) -> str:
    """The text that is named, else the haystack of the needle format, else the shipped one."""
    if config.text is not None or config.needles.format is None:
        return config.text or DEFAULT_TEXT
    path = Path(config.needles.format)
    name = load_format(path).haystack
    return name if name in SHIPPED_TEXTS else str(path.parent / name)
