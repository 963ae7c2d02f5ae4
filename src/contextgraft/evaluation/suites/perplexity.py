"""How well a model predicts long text, by the position of the predicted token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from contextgraft.config.evaluation import EvaluationConfig, PerplexitySection
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
    required_lengths,
    scored_row,
    unscored_row,
)
from contextgraft.evaluation.suites.text_prompts import (
    TextMeasurement,
    TextPrompt,
    TextWindows,
    read_text,
    text_name,
)

if TYPE_CHECKING:
    import torch

FIRST_RANGE_END = 64


@dataclass(frozen=True)
class PerplexityMeasurement(TextMeasurement):
    """Windows of a text, each of `length` tokens, every one but the first predicted.

    A row is a window and a range of positions; its score is the mean negative log-likelihood in nats.
    """

    length: int
    suite: ClassVar[str] = "perplexity"

    @override
    def longest(self, tokenizer: PromptTokenizer) -> int:
        return self.length

    @override
    def narrowed(self, row: SampleRow) -> "PerplexityMeasurement":
        return replace(self, source=self.source.narrowed(row), length=row["length"])

    @override
    def rows(self, loaded: LoadedModel, advance: Callable[[int], object] = int) -> list[SampleColumns]:
        """Short windows run in parallel; those that torch cannot run (out of memory, say) fail.

        A tokenizer with more tokens than the model has embedding rows raises MismatchError.
        """
        import torch

        from contextgraft.evaluation.backends.loading import check_vocabulary
        from contextgraft.evaluation.backends.logprobs import forward_batches, negative_log_likelihoods

        reason = exceeds_positions(loaded.model, self.length)
        if reason is not None:
            return self.unscored_rows(loaded.tokenizer, "truncated", reason)
        prompts = self.source.prompts(loaded.tokenizer)
        check_vocabulary(loaded.model, loaded.path, largest_id([prompt.ids for prompt in prompts]))
        rows: list[SampleColumns] = []
        for batch in forward_batches(prompts, self.length):
            try:
                ids_BT = torch.tensor([prompt.ids for prompt in batch])
                nats_BT = negative_log_likelihoods(loaded.model, ids_BT)
            except RuntimeError as error:
                rows += [unscored_row(row, "failed", failure_reason(error)) for row in self._blank(batch)]
            else:
                rows += self._scored(batch, nats_BT)
            advance(len(batch))
        return rows

    @override
    def unscored_rows(self, tokenizer: PromptTokenizer, status: str, reason: str) -> list[SampleColumns]:
        return [unscored_row(row, status, reason) for row in self._blank(self.source.prompts(tokenizer))]

    def _scored(self, batch: Sequence[TextPrompt], nats_BT: "torch.Tensor") -> list[SampleColumns]:
        scores = [
            float(nats_T[first - 2 : last - 1].double().mean())
            for nats_T in nats_BT
            for first, last in position_ranges(self.length)
        ]
        return [scored_row(row, score) for row, score in zip(self._blank(batch), scores, strict=True)]

    def _blank(self, prompts: Sequence[TextPrompt]) -> list[SampleColumns]:
        return [
            {
                **self.prompt_columns(prompt),
                "position": last,
                "tokens": last - first + 1,
                "scoring": "nll",
            }
            for prompt in prompts
            for first, last in position_ranges(self.length)
        ]


def position_ranges(length: int) -> list[tuple[int, int]]:
    """First and last position, counted from 1, of each range of predicted tokens.

    Ranges end at 64, 128, 256 and so on, the last one at `length`; the first token is not predicted.
    """
    ends = [FIRST_RANGE_END]
    while ends[-1] < length:
        ends.append(ends[-1] * 2)
    ends = [end for end in ends if end < length] + [length]
    return list(zip([2, *(end + 1 for end in ends[:-1])], ends, strict=True))


def build_windows(config: EvaluationConfig) -> SuiteContent:
    """One measurement per length."""
    section = config.perplexity or PerplexitySection()
    lengths = required_lengths(
        "perplexity", "--perplexity-lengths", section.lengths or config.needles.lengths
    )
    text = read_text(text_name(config))
    return SuiteContent(
        measurements=tuple(
            PerplexityMeasurement(TextWindows(text, length, section.documents, config.common_seed), length)
            for length in lengths
        )
    )


def planned_prompts(config: EvaluationConfig) -> list[PlannedPrompts]:
    """The windows of each length are read once; no answer is generated."""
    section = config.perplexity or PerplexitySection()
    lengths = section.lengths or config.needles.lengths or ()
    return [read_once(length, section.documents) for length in lengths]


def narrow(config: EvaluationConfig, row: SampleRow) -> EvaluationConfig:
    """Windows of the row's length."""
    return config.with_section("perplexity", lengths=[row["length"]], documents=1)


SUITE = Suite(build_windows, planned_prompts, narrow, unit="nats")
