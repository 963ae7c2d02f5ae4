"""The suite long_perplexity: windows of a text, scored on the key tokens that a reference model names."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from contextgraft.checkpoint.atomic import publish_file
from contextgraft.checkpoint.digest import json_digest
from contextgraft.checkpoint.input_files import unchanged
from contextgraft.config.evaluation import EvaluationConfig, LongPerplexitySection
from contextgraft.errors import ConfigError, ContextgraftError, InputError
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
from contextgraft.evaluation.suites.text_prompts import (
    TextMeasurement,
    TextPrompt,
    TextWindows,
    read_text,
    text_name,
)
from contextgraft.formats.refusal import is_final

if TYPE_CHECKING:  # plans import suites, but not transformers
    from contextgraft.evaluation.models import EvalModel

OTHER_TOKENS = "the reference's tokenizer gives other tokens than the model's"
NO_KEY_TOKENS = "the reference names no key token in this window"
KeyTokens = Mapping[str, Sequence[int]]  # positions by the digest of a window


@dataclass(frozen=True)
class LongPerplexityMeasurement(TextMeasurement):
    """Mean negative log-likelihood in nats of the key tokens of each window; `tokens` is their number.

    `reference` is the folder of the model that chooses them, by contexts of `short` tokens and of the window.
    """

    length: int
    short: int
    reference: Path
    suite: ClassVar[str] = "long_perplexity"

    @cached_property
    def reference_model(self) -> "EvalModel":
        """The reference, with the digest of its weights."""
        from contextgraft.evaluation.models import open_eval_model

        return open_eval_model("reference", self.reference)

    @override
    def key(self) -> dict[str, Any]:
        return {**super().key(), "short": self.short, "reference": self.reference_model.digest}

    @override
    def check(self, tokenizer: PromptTokenizer) -> None:
        super().check(tokenizer)
        if self.short >= self.length:
            raise InputError(
                "a window of long_perplexity has no far context",
                expected=f"lengths above the short context of {self.short} tokens",
                received=self.length,
                remedy="choose longer lengths, or set long_perplexity.short",
            )

    @override
    def longest(self, tokenizer: PromptTokenizer) -> int:
        return self.length

    @override
    def narrowed(self, row: SampleRow) -> "LongPerplexityMeasurement":
        spec = json.loads(row["recipe"])
        if spec["digest"] != self.reference_model.digest:
            raise InputError(
                "is not the reference that chose the row's key tokens", path=self.reference,
                expected=spec["digest"], received=self.reference_model.digest,
            )  # fmt: skip
        own = {name: value for name, value in spec.items() if name not in ("digest", "short")}
        source = self.source.narrowed({**row, "recipe": json_line(own)})
        return replace(self, source=source, length=row["length"], short=spec["short"])

    @override
    def ready(self, work: Path, reference: str) -> bool:
        return True

    @override
    def rows(self, loaded: LoadedModel, advance: Callable[[int], object] = int) -> list[SampleColumns]:
        """The reference is loaded next to the first model of a run; the key tokens are kept for the others.

        A tokenizer with more tokens than the model has embedding rows raises MismatchError.
        """
        from contextgraft.evaluation.backends.loading import check_vocabulary

        reason = exceeds_positions(loaded.model, self.length)
        if reason is not None:
            return self.unscored_rows(loaded.tokenizer, "truncated", reason)
        prompts = self.source.prompts(loaded.tokenizer)
        check_vocabulary(loaded.model, loaded.path, largest_id([prompt.ids for prompt in prompts]))
        if not self.has_tokens_of_reference(prompts):
            return self.unscored_rows(loaded.tokenizer, "skipped", OTHER_TOKENS)
        try:
            keys = self._key_tokens(loaded, prompts)
        except RuntimeError as error:
            return self.unscored_rows(loaded.tokenizer, "failed", failure_reason(error))
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
        try:
            windows = self.source.prompts(self.reference_model.tokenizer)
        except InputError:  # for the reference's tokenizer the text is too short
            return False
        return [window.ids for window in windows] == [prompt.ids for prompt in prompts]

    def _key_tokens(self, loaded: LoadedModel, prompts: Sequence[TextPrompt]) -> KeyTokens:
        """From the work folder, else by the reference."""
        path = loaded.work / f"key-tokens-{json_digest(self.key())}.json"
        if path.exists():
            kept: KeyTokens = json.loads(path.read_bytes())
            return kept
        begin = len(loaded.tokenizer.prefix_suffix(chat=False)[0])
        keys = choose_key_tokens(self.reference_model, loaded, prompts, self.short, begin)
        with publish_file(path) as temporary:
            temporary.write_text(json.dumps(keys, sort_keys=True), encoding="utf-8")
        return keys

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
        digest = self.reference_model.digest
        spec = {**json.loads(prompt.prompt_spec), "short": self.short, "digest": digest}
        columns = self.prompt_columns(prompt)
        return {**columns, "recipe": json_line(spec), "scoring": "longppl", "reference_digest": digest}


def choose_key_tokens(
    reference: "EvalModel", loaded: LoadedModel, prompts: Sequence[TextPrompt], short: int, begin: int
) -> KeyTokens:
    """Key tokens by the reference model, on the device and in the type of the loaded one.

    ConfigError for a reference that cannot be used: no other model may be refused for it.
    """
    from contextgraft.evaluation.backends.loading import load_model
    from contextgraft.evaluation.suites.long_perplexity.key_tokens import key_positions

    dtype = str(loaded.model.dtype).removeprefix("torch.")
    with errors_of_reference(reference.path), unchanged(reference.inputs):
        model = load_model(reference.path, loaded.model.device, dtype)
        return {prompt.digest: key_positions(model, prompt.ids, short, begin) for prompt in prompts}


@contextmanager
def errors_of_reference(path: Path) -> Iterator[None]:
    """Turn errors that would be final for the evaluated model into a mistake of the configuration."""
    try:
        yield
    except ContextgraftError as error:
        if not is_final(error):
            raise
        raise ConfigError(
            "the reference of long_perplexity cannot be used",
            path=path,
            received=str(error),
            remedy="set evaluation.long_perplexity.reference to another model",
        ) from error


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
    text, reference = read_text(text_name(config)), Path(section.reference)
    return SuiteContent(
        measurements=tuple(
            LongPerplexityMeasurement(
                TextWindows(text, length, section.documents, config.common_seed),
                length, section.short, reference,
            )
            for length in lengths
        )
    )  # fmt: skip


def planned_prompts(config: EvaluationConfig) -> list[PlannedPrompts]:
    """The windows of each length are read once; the reference's passes are not counted."""
    section = config.long_perplexity or LongPerplexitySection()
    lengths = section.lengths or config.needles.lengths or ()
    return [read_once(length, section.documents) for length in lengths]


def narrow(config: EvaluationConfig, row: SampleRow) -> EvaluationConfig:
    """Windows of the row's length."""
    return config.with_section("long_perplexity", lengths=[row["length"]], documents=1)


SUITE = Suite(build_windows, planned_prompts, narrow, unit="nats")
