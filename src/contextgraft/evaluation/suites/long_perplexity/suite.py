"""The suite long_perplexity: windows of a text, scored on the key tokens that a reference model names."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from contextgraft.config.evaluation import EvaluationConfig, LongPerplexitySection
from contextgraft.errors import ConfigError, InputError
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.questions import json_line
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
from contextgraft.evaluation.suites.long_perplexity.reference import KeyTokenReference, short_contexts
from contextgraft.evaluation.suites.text_prompts import (
    PromptSource,
    TextMeasurement,
    TextPrompt,
    TextWindows,
    read_text,
    text_name,
)

if TYPE_CHECKING:  # plans import suites, but not transformers
    from contextgraft.evaluation.backends.registry import BackendConfig

OTHER_TOKENS = "the reference's tokenizer gives other tokens than the model's"
NO_KEY_TOKENS = "the reference names no key token in this window"


@dataclass(frozen=True)
class LongPerplexityMeasurement(TextMeasurement):
    """Mean negative log-likelihood in nats of the key tokens of each window; `tokens` is their number.

    `reference` chooses them, for the windows of all lengths of the run, `sources`, at once.
    """

    length: int
    reference: KeyTokenReference
    sources: tuple[PromptSource, ...]
    suite: ClassVar[str] = "long_perplexity"

    @override
    def key(self) -> dict[str, Any]:
        return {**super().key(), "short": self.reference.short, "reference": self.reference.identity}

    @override
    def check(self, tokenizer: PromptTokenizer) -> None:
        super().check(tokenizer)
        if self.reference.short >= self.length:
            raise ConfigError(
                "a window of long_perplexity has no far context",
                expected=f"lengths above the short context of {self.reference.short} tokens",
                received=self.length,
                remedy="choose longer lengths, or set long_perplexity.short",
            )
        self.reference.check(self.length)

    @override
    def longest(self, tokenizer: PromptTokenizer) -> int:
        return self.length

    @override
    def narrowed(self, row: SampleRow) -> "LongPerplexityMeasurement":
        spec = json.loads(row["recipe"])
        digest = self.reference.model.digest
        if spec["digest"] != digest:
            raise InputError(
                "is not the reference that chose the row's key tokens", path=self.reference.folder,
                expected=spec["digest"], received=digest,
            )  # fmt: skip
        text = {name: value for name, value in spec.items() if name not in ("digest", "short")}
        source = self.source.narrowed({**row, "recipe": json_line(text)})
        reference = self.reference.with_short(spec["short"])
        return replace(self, source=source, length=row["length"], reference=reference, sources=(source,))

    @override
    def prepare(self, work: Path, backend: "BackendConfig") -> None:
        self.reference.choose(self.sources, work, backend)

    @override
    def rows(self, loaded: LoadedModel, advance: Callable[[int], object] = int) -> list[SampleColumns]:
        """A tokenizer with more tokens than the model has embedding rows raises MismatchError."""
        from contextgraft.evaluation.backends.loading import check_vocabulary

        reason = exceeds_positions(loaded.model, self.length)
        if reason is not None:
            return self.unscored_rows(loaded.tokenizer, "truncated", reason)
        prompts = self.source.prompts(loaded.tokenizer)
        check_vocabulary(loaded.model, loaded.path, largest_id([prompt.ids for prompt in prompts]))
        if not self.has_tokens_of_reference(prompts):
            return self.unscored_rows(loaded.tokenizer, "skipped", OTHER_TOKENS)
        keys = self.reference.key_tokens(self.source)
        if isinstance(keys, str):
            return self.unscored_rows(loaded.tokenizer, "failed", keys)
        rows = []
        for prompt in prompts:
            rows.append(self._scored(loaded.model, prompt, keys[prompt.digest]))
            advance(1)
        return rows

    @override
    def unscored_rows(self, tokenizer: PromptTokenizer, status: str, reason: str) -> list[SampleColumns]:
        prompts = self.source.prompts(tokenizer)
        return [unscored_row(self._blank(prompt), status, reason) for prompt in prompts]

    def has_tokens_of_reference(self, prompts: Sequence[TextPrompt]) -> bool:
        """Whether the reference's tokenizer gives the same windows."""
        windows = self.reference.windows(self.source)
        return [window.ids for window in windows] == [prompt.ids for prompt in prompts]

    def _scored(self, model: Any, prompt: TextPrompt, positions: Sequence[int]) -> SampleColumns:
        import torch

        from contextgraft.evaluation.backends.logprobs import negative_log_likelihoods

        row = {**self._blank(prompt), "tokens": len(positions)}
        if not positions:
            return unscored_row(row, "skipped", NO_KEY_TOKENS)
        try:
            nats_T = negative_log_likelihoods(model, torch.tensor([prompt.ids]))[0]
        except RuntimeError as error:
            return unscored_row(row, "failed", failure_reason(error))
        return scored_row(row, float(nats_T[[position - 1 for position in positions]].double().mean()))

    def _blank(self, prompt: TextPrompt) -> SampleColumns:
        digest = self.reference.model.digest
        spec = {**json.loads(prompt.prompt_spec), "short": self.reference.short, "digest": digest}
        columns = self.prompt_columns(prompt)
        return {**columns, "recipe": json_line(spec), "scoring": "longppl", "reference_digest": digest}


def build_windows(config: EvaluationConfig) -> SuiteContent:
    """One measurement per length; InputError without a reference."""
    section = config.long_perplexity or LongPerplexitySection()
    lengths = required_lengths("long_perplexity", "--lengths", section.lengths or config.needles.lengths)
    if section.reference is None:
        raise InputError(
            "long_perplexity needs a model that chooses the key tokens",
            expected="the folder of a model with the long context, such as the donor",
            received="none", remedy="set evaluation.long_perplexity.reference",
        )  # fmt: skip
    text, reference = read_text(text_name(config)), KeyTokenReference(Path(section.reference), section.short)
    windows = {length: TextWindows(text, length, section.documents, config.common_seed) for length in lengths}
    sources = tuple(windows.values())
    return SuiteContent(
        measurements=tuple(
            LongPerplexityMeasurement(source, length, reference, sources)
            for length, source in windows.items()
        )
    )


def planned_prompts(config: EvaluationConfig) -> list[PlannedPrompts]:
    """The windows of each length are read once by every model."""
    section = config.long_perplexity or LongPerplexitySection()
    lengths = section.lengths or config.needles.lengths or ()
    return [read_once(length, section.documents) for length in lengths]


def planned_reference(config: EvaluationConfig) -> list[PlannedPrompts]:
    """What the reference reads: each window whole, then in short contexts a quarter of their length apart."""
    section = config.long_perplexity or LongPerplexitySection()
    planned = []
    for length in section.lengths or config.needles.lengths or ():
        spans = ((0, length), *[(0, section.short)] * len(short_contexts(section.short, length)))
        planned.append(PlannedPrompts(length, section.documents, spans, spans))
    return planned


def narrow(config: EvaluationConfig, row: SampleRow) -> EvaluationConfig:
    """Windows of the row's length."""
    return config.with_section("long_perplexity", lengths=[row["length"]], documents=1)


SUITE = Suite(build_windows, planned_prompts, narrow, unit="nats", planned_reference=planned_reference)
