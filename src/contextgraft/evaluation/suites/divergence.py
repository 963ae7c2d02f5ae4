"""How far a model's predictions are from those of the reference, the unchanged fine-tune, on short prompts.

Legend of shape suffixes: B prompts of one length, C tokens of a chunk, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from contextgraft.checkpoint.digest import json_digest
from contextgraft.config.evaluation import DivergenceSection, EvaluationConfig
from contextgraft.config.target_sheet import JSONL
from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.suites.base import (
    LoadedModel,
    PlannedPrompts,
    SampleColumns,
    SampleRow,
    Suite,
    SuiteContent,
    exceeds_positions,
    failure_reason,
    largest_id,
    read_once,
    scored_row,
    unscored_row,
)
from contextgraft.evaluation.suites.skill_file import read_skill_file
from contextgraft.evaluation.suites.text_prompts import (
    SkillLines,
    TextMeasurement,
    TextPrompt,
    TextWindows,
    read_text,
    text_name,
)

if TYPE_CHECKING:
    from contextgraft.evaluation.suites.reference_logprobs import (
        LogprobReader,
        LogprobSpec,
        ReferencePaths,
    )

NO_REFERENCE = "the reference model could not be measured"


@dataclass(frozen=True)
class DivergenceMeasurement(TextMeasurement):
    """Kullback-Leibler divergence of a model's next-token predictions from the reference's, in nats.

    A row is a prompt: the mean over all its tokens, and the share of tokens after which both models predict
    the same most likely token. Source: S. Kullback and R. A. Leibler, Annals of Mathematical Statistics 22
    (1951) 79-86.
    """

    suite: ClassVar[str] = "divergence"

    @override
    def longest(self, tokenizer: PromptTokenizer) -> int:
        return max(len(prompt.ids) for prompt in self.source.prompts(tokenizer))

    @override
    def narrowed(self, row: SampleRow) -> "DivergenceMeasurement":
        return replace(self, source=self.source.narrowed(row))

    @override
    def ready(self, work: Path, reference: str) -> bool:
        return self._paths(work, reference).ready()

    @override
    def rows(self, loaded: LoadedModel, advance: Callable[[int], object] = int) -> list[SampleColumns]:
        """The reference too is compared: its predictions are written, then computed again.

        A tokenizer with more tokens than the model has embedding rows raises MismatchError.
        """
        from contextgraft.evaluation.backends.loading import check_vocabulary
        from contextgraft.evaluation.backends.logprobs import vocabulary_size
        from contextgraft.evaluation.suites.reference_logprobs import (
            LogprobReader,
            logprob_spec,
            write_reference,
        )

        prompts = self.source.prompts(loaded.tokenizer)
        ids = [prompt.ids for prompt in prompts]
        reason = exceeds_positions(loaded.model, max(map(len, ids)))
        if reason is not None:
            return self.unscored_rows(loaded.tokenizer, "truncated", reason)
        check_vocabulary(loaded.model, loaded.path, largest_id(ids))
        paths = self._paths(loaded.work, loaded.reference)
        spec = logprob_spec(ids, vocabulary_size(loaded.model))
        if loaded.identity == loaded.reference and not paths.ready():
            try:
                write_reference(loaded.model, ids, paths, spec)
            except RuntimeError as error:
                return self.unscored_rows(loaded.tokenizer, "failed", failure_reason(error))
        if not paths.ready():
            return self.unscored_rows(loaded.tokenizer, "failed", NO_REFERENCE)
        reader = LogprobReader(paths)
        if reader.spec != spec:
            return self.unscored_rows(loaded.tokenizer, "skipped", difference(reader.spec, spec))
        rows = self._compared(loaded.model, prompts, reader, advance)
        return [{**row, "reference_digest": loaded.reference_digest} for row in rows]

    @override
    def unscored_rows(self, tokenizer: PromptTokenizer, status: str, reason: str) -> list[SampleColumns]:
        prompts = self.source.prompts(tokenizer)
        return [unscored_row(self._blank(prompt), status, reason) for prompt in prompts]

    def _compared(
        self,
        model: Any,
        prompts: Sequence[TextPrompt],
        reader: "LogprobReader",
        advance: Callable[[int], object],
    ) -> list[SampleColumns]:
        from contextgraft.evaluation.suites.reference_logprobs import compare_batch, prompt_batches

        rows: dict[int, SampleColumns] = {}
        for batch in prompt_batches([prompt.ids for prompt in prompts]):
            blanks = [self._blank(prompts[placed.index]) for placed in batch]
            try:
                sums = compare_batch(model, batch, reader)
            except RuntimeError as error:
                compared = [unscored_row(blank, "failed", failure_reason(error)) for blank in blanks]
            else:
                compared = [
                    scored_row(blank, total.divergence / blank["tokens"], total.same / blank["tokens"])
                    for blank, total in zip(blanks, sums, strict=True)
                ]
            rows |= {placed.index: row for placed, row in zip(batch, compared, strict=True)}
            advance(len(batch))
        return [row for _, row in sorted(rows.items())]

    def _blank(self, prompt: TextPrompt) -> SampleColumns:
        return {**self.prompt_columns(prompt), "tokens": len(prompt.ids), "scoring": "kl"}

    def _paths(self, work: Path, reference: str) -> "ReferencePaths":
        from contextgraft.evaluation.suites.reference_logprobs import reference_paths

        return reference_paths(work, json_digest([reference, self.key()]))


def difference(reference: "LogprobSpec", spec: "LogprobSpec") -> str:
    """Why two models' predictions cannot be compared."""
    if reference.vocabulary != spec.vocabulary:
        return (
            f"the reference has {reference.vocabulary} tokens, this model {spec.vocabulary}: "
            "their predictions cannot be compared"
        )
    return "the model's tokenizer gives other tokens than the reference's: predictions cannot be compared"


def build_prompts(config: EvaluationConfig) -> SuiteContent:
    """Windows of the text; lines, if the text is a skill file."""
    section = config.divergence or DivergenceSection()
    name, seed = text_name(config), config.common_seed
    if name.endswith(JSONL):
        if section.chat:
            raise InputError(
                "divergence.chat is measured on a text, not on a skill file", path=name,
                remedy="give a text, or set divergence.chat: false",
            )  # fmt: skip
        lines = SkillLines(read_skill_file(Path(name)), section.prompts, seed)
        return SuiteContent(measurements=(DivergenceMeasurement(lines),))
    text = read_text(name)
    windows = (
        TextWindows(text, section.length, section.prompts, seed, chat=chat)
        for chat in ((False, True) if section.chat else (False,))
    )
    return SuiteContent(measurements=tuple(DivergenceMeasurement(source) for source in windows))


def planned_prompts(config: EvaluationConfig) -> list[PlannedPrompts]:
    """All prompts have one length and are read once; no answer is generated."""
    section = config.divergence or DivergenceSection()
    return [read_once(section.length, section.prompts * (2 if section.chat else 1))]


def narrow(config: EvaluationConfig, row: SampleRow) -> EvaluationConfig:  # noqa: ARG001 - one signature
    """The text decides: the row's prompt is taken from it."""
    return config


SUITE = Suite(build_prompts, planned_prompts, narrow, unit="nats")
