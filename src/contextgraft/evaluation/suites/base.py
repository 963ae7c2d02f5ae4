"""What suites are made of: question sets, which a model answers, and measurements of a loaded model."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from contextgraft.config.evaluation import EvaluationConfig
from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.questions import Question

if TYPE_CHECKING:  # plans import suites, but not torch
    from contextgraft.evaluation.backends.registry import BackendConfig

SampleColumns = dict[str, Any]  # columns of one sample; those that are absent are null
SampleRow = Mapping[str, Any]  # one row of a table of samples, as read
PromptSpec = Mapping[str, Any]  # the row's column `recipe`, parsed
TokenSpan = tuple[int, int]  # first position, and the one after the last
MAX_REASON = 200  # characters of a reason
NOT_FINITE = "the model's predictions are not finite numbers"


class QuestionSet(Protocol):
    """Prompts with expected answers, of one suite."""

    suite: ClassVar[str]  # the column `suite` of its rows

    def content(self) -> Any:
        """JSON of all that decides the questions but the seed; paths of files are not part of it."""

    def questions(self, tokenizer: PromptTokenizer, seed: int) -> list[Question]:
        """All questions; InputError if the tokenizer cannot hold them."""

    def matches(self, row: SampleRow) -> bool:
        """Whether a row has the names (task, kind, haystack, ...) of this set."""

    def same_content(self, row: SampleRow, prompt_spec: PromptSpec) -> bool:
        """Whether a row of these names was drawn from the same content."""

    def rebuild(self, row: SampleRow, prompt_spec: dict[str, Any], tokenizer: PromptTokenizer) -> Question:
        """The question of a row; the set's own lengths, samples and seed do not matter."""


@dataclass(frozen=True)
class LoadedModel:
    """A model that is loaded and about to be measured.

    `identity` is a digest of all that decides its predictions; `reference` is that of the model from which
    divergence is measured, equal to `identity` for that model; `reference_digest` is the digest of its
    weights. `work` is the folder of what a run keeps until it is complete. `prefill_chunk` is the number of
    prompt tokens computed at a time.
    """

    model: Any
    tokenizer: PromptTokenizer
    path: Path
    batch_size: int
    work: Path
    identity: str
    reference: str
    reference_digest: str
    prefill_chunk: int = 2048


class Measurement(Protocol):
    """A quantity computed from a loaded model's predictions; its rows of one model are complete or absent."""

    suite: ClassVar[str]  # the column `suite` of its rows

    def key(self) -> dict[str, Any]:
        """JSON of all that decides what is measured."""

    def check(self, tokenizer: PromptTokenizer) -> None:
        """Raise InputError for whatever can be known to be wrong before a model is loaded."""

    def __len__(self) -> int:
        """How many windows, prompts or documents it has."""

    def longest(self, tokenizer: PromptTokenizer) -> int:
        """Tokens of the longest of them."""

    def answer_tokens(self) -> int:
        """At most how many tokens all answers together have; 0 where nothing is generated."""
        return 0

    def narrowed(self, row: SampleRow) -> "Measurement":
        """The measurement of what a row of the table was measured on, and of nothing else.

        InputError if this measurement is of another text, file or task.
        """

    def text(self, tokenizer: PromptTokenizer) -> str:
        """What the model reads, as text."""

    def ready(self, work: Path, reference: str) -> bool:  # noqa: ARG002 - most need nothing
        """Whether what the reference model leaves behind is on disk; if not, it must be measured first."""
        return True

    def prepare(self, work: Path, backend: "BackendConfig") -> None:  # noqa: ARG002 - most need nothing
        """What must be computed before the first model is loaded; `work` may have it from an earlier run.

        Not called where models do not run in this process. An error is about the run, not about a model.
        """
        return

    def rows(self, loaded: LoadedModel, advance: Callable[[int], object] = int) -> list[SampleColumns]:
        """The rows of a model; `advance` is called with how many more of the whole are done.

        What the model cannot do is a row with a status and a reason, not an exception.
        """

    def unscored_rows(self, tokenizer: PromptTokenizer, status: str, reason: str) -> list[SampleColumns]:
        """The same rows without scores."""


class SuiteContent(NamedTuple):
    """What one suite contributes to an evaluation."""

    question_sets: tuple[QuestionSet, ...] = ()
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True)
class PlannedPrompts:
    """Prompts of one length over `documents` equal texts, for planning. A span reads its positions only.

    `alone` are the spans of the prompts of one text when nothing is shared, `shared` those that are left when
    a prompt reuses the prefix that it has in common with the one before. An answer has `answer` tokens.
    """

    length: int
    documents: int
    alone: tuple[TokenSpan, ...]
    shared: tuple[TokenSpan, ...]
    answer: int = 0


def nothing_planned(_: EvaluationConfig) -> Sequence[PlannedPrompts]:
    """A suite whose runs need no other model."""
    return ()


@dataclass(frozen=True)
class Suite:
    """How one section of the configuration becomes questions and measurements.

    `build` reads files and raises InputError or ConfigError for what cannot be read or is missing; it needs
    no torch. `planned` is arithmetic on the configuration alone. `narrow` gives the configuration that
    contains what a row of the table was evaluated on. `unit` is that of the scores: the share of right
    answers, or nats per token. `planned_reference` are the texts that a reference model reads once in every
    run, before the models.
    """

    build: Callable[[EvaluationConfig], SuiteContent]
    planned: Callable[[EvaluationConfig], Sequence[PlannedPrompts]]
    narrow: Callable[[EvaluationConfig, SampleRow], EvaluationConfig]
    unit: Literal["share", "nats"] = "share"
    planned_reference: Callable[[EvaluationConfig], Sequence[PlannedPrompts]] = nothing_planned


def required_lengths(suite: str, option: str, lengths: Sequence[int] | None) -> tuple[int, ...]:
    """The lengths of a suite; InputError if there are none."""
    if not lengths:
        raise InputError(f"--suite {suite} needs lengths", remedy=f"pass {option}, for example 1024,4096")
    return tuple(lengths)


def read_once(length: int, documents: int) -> PlannedPrompts:
    """Texts that are read once, without an answer."""
    span = ((0, length),)
    return PlannedPrompts(length, documents, span, span)


def scored_row(row: SampleColumns, score: float, agreement: float | None = None) -> SampleColumns:
    """A row with its score; a score that is not finite makes it a failed one."""
    if not math.isfinite(score):
        return unscored_row(row, "failed", NOT_FINITE)
    return {**row, "score": score, "agreement": agreement, "status": "ok", "reason": None}


def unscored_row(row: SampleColumns, status: str, reason: str) -> SampleColumns:
    """A row without a score, and why."""
    return {**row, "score": None, "status": status, "reason": " ".join(reason.split())[:MAX_REASON]}


def failure_reason(error: BaseException) -> str:
    """An error as the reason of a row."""
    return f"{type(error).__name__}: {error}"


def exceeds_positions(model: Any, length: int) -> str | None:
    """Why a text of this many tokens is not given to a model; None if it fits."""
    from contextgraft.evaluation.backends.loading import max_positions

    positions = max_positions(model.config)
    if positions is None or length <= positions:
        return None
    return (
        f"needs {length} tokens, the model has {positions} positions and no rotary ones; it was not measured"
    )


def largest_id(prompts: Sequence[Sequence[int]]) -> int:
    """The largest token id of all prompts."""
    return max(max(ids) for ids in prompts)
