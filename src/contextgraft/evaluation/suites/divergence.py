"""How far a model's predictions are from those of the reference, the untouched fine-tune, on short prompts.

Legend of shape suffixes: B prompts of one length, C tokens of a chunk, V vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, ClassVar

import torch

from contextgraft.checkpoint.digest import json_digest
from contextgraft.evaluation.backends.loading import check_vocabulary
from contextgraft.evaluation.backends.logprobs import batches, chunks, vocabulary
from contextgraft.evaluation.backends.tokenizer import Tokens
from contextgraft.evaluation.suites.base import Row, Subject, failure, missed, scored, too_long
from contextgraft.evaluation.suites.reference_logprobs import Place, Reader, Shape, Writer, place
from contextgraft.evaluation.suites.text_prompts import Prompt, Prompts, decoded, largest_id

NO_REFERENCE = "the reference model could not be measured"


@dataclass(frozen=True)
class Placed:
    """A prompt, and the number of its first token among those of all prompts."""

    prompt: Prompt
    first: int


@dataclass
class Sums:
    """Over the tokens of a prompt: divergences in nats, and tokens whose likeliest successor is the same."""

    divergence: float = 0.0
    same: int = 0


@dataclass(frozen=True)
class DivergenceMeasure:
    """Kullback-Leibler divergence of a model's next-token predictions from the reference's, in nats.

    A row is a prompt: the mean over all its tokens, and the share of them after which both models hold the
    same token the likeliest. Source: S. Kullback and R. A. Leibler, Annals of Mathematical Statistics 22
    (1951) 79-86.
    """

    source: Prompts
    suite: ClassVar[str] = "divergence"

    def key(self) -> dict[str, Any]:
        """The prompts'."""
        return {"suite": self.suite, **self.source.key()}

    def check(self, tokens: Tokens) -> None:
        """The prompts must be there, in the tokenizer's words."""
        self.source.prompts(tokens)

    def count(self) -> int:
        """Prompts."""
        return self.source.count_all()

    def longest(self, tokens: Tokens) -> int:
        """Tokens of the longest prompt."""
        return max(len(prompt.ids) for prompt in self.source.prompts(tokens))

    def again(self, row: Mapping[str, Any]) -> "DivergenceMeasure":
        """The row's prompt alone."""
        return replace(self, source=self.source.again(row))

    def text(self, tokens: Tokens) -> str:
        """The prompts as texts."""
        return decoded(self.source, tokens)

    def ready(self, work: Path, reference: str) -> bool:
        """Whether the reference's predictions are on disk."""
        return self._place(work, reference).ready()

    def rows(self, subject: Subject, advance: Callable[[int], object] = int) -> list[Row]:
        """Of the reference too: its predictions are written, then computed again and compared.

        A tokenizer of more tokens than the model has rows raises MismatchError.
        """
        prompts = self.source.prompts(subject.tokens)
        reason = too_long(subject.model, max(len(prompt.ids) for prompt in prompts))
        if reason is not None:
            return self.unmeasured(subject.tokens, "truncated", reason)
        check_vocabulary(subject.model, subject.path, largest_id(prompts))
        where = self._place(subject.work, subject.reference)
        shape = shape_of(prompts, vocabulary(subject.model))
        if subject.identity == subject.reference and not where.ready():
            try:
                write(subject.model, prompts, where, shape)
            except RuntimeError as error:
                return self.unmeasured(subject.tokens, "failed", failure(error))
        if not where.ready():
            return self.unmeasured(subject.tokens, "failed", NO_REFERENCE)
        reader = Reader(where)
        if reader.shape != shape:
            return self.unmeasured(subject.tokens, "skipped", difference(reader.shape, shape))
        rows = self._compared(subject.model, prompts, reader, advance)
        return [{**row, "reference_digest": subject.reference_digest} for row in rows]

    def unmeasured(self, tokens: Tokens, status: str, reason: str) -> list[Row]:
        """Every prompt without a score."""
        return [missed(self._blank(prompt), status, reason) for prompt in self.source.prompts(tokens)]

    def _compared(
        self, model: Any, prompts: Sequence[Prompt], reader: Reader, advance: Callable[[int], object]
    ) -> list[Row]:
        rows: dict[int, Row] = {}
        for batch in side_by_side(prompts):
            blanks = [self._blank(placed.prompt) for placed in batch]
            try:
                sums = compare(model, batch, reader)
            except RuntimeError as error:
                found = [missed(blank, "failed", failure(error)) for blank in blanks]
            else:
                found = [
                    scored(blank, each.divergence / blank["tokens"], each.same / blank["tokens"])
                    for blank, each in zip(blanks, sums, strict=True)
                ]
            rows |= {placed.first: row for placed, row in zip(batch, found, strict=True)}
            advance(len(batch))
        return [row for _, row in sorted(rows.items())]

    def _blank(self, prompt: Prompt) -> Row:
        return {
            "suite": self.suite,
            "task": self.source.name,
            "document": prompt.document,
            "length": len(prompt.ids),
            "prompt_tokens": len(prompt.ids),
            "prompt_digest": prompt.digest,
            "seed": self.source.seed,
            "index": prompt.document,
            "tokens": len(prompt.ids),
            "recipe": prompt.recipe,
            "scoring": "kl",
        }

    def _place(self, work: Path, reference: str) -> Place:
        return place(work, json_digest([reference, self.key()]))


def side_by_side(prompts: Sequence[Prompt]) -> Iterator[list[Placed]]:
    """Prompts of one length together, as many as one call of a model takes."""
    firsts = accumulate((len(prompt.ids) for prompt in prompts), initial=0)
    placed = [Placed(prompt, first) for prompt, first in zip(prompts, firsts, strict=False)]
    by_length = groupby(
        sorted(placed, key=lambda each: len(each.prompt.ids)), lambda each: len(each.prompt.ids)
    )
    for length, group in by_length:
        for batch in batches(list(group), length):
            yield list(batch)


def write(model: Any, prompts: Sequence[Prompt], where: Place, shape: Shape) -> None:
    """Write what a model predicts after every token of every prompt."""
    with Writer(where, shape) as writer:
        for batch in side_by_side(prompts):
            for start, logs_BCV in chunks(model, ids_of(model, batch)):
                for placed, logs_CV in zip(batch, logs_BCV, strict=True):
                    writer.put(placed.first + start, logs_CV)
        writer.finish()


def compare(model: Any, batch: Sequence[Placed], reader: Reader) -> list[Sums]:
    """Sums over the tokens of each prompt of a batch."""
    sums = [Sums() for _ in batch]
    for start, logs_BCV in chunks(model, ids_of(model, batch)):
        for placed, logs_CV, each in zip(batch, logs_BCV, sums, strict=True):
            reference_CV = reader.get(placed.first + start, len(logs_CV)).to(logs_CV.device)
            each.divergence += float(divergence(reference_CV, logs_CV).double().sum())
            each.same += int((reference_CV.argmax(dim=-1) == logs_CV.argmax(dim=-1)).sum())
    return sums


def divergence(reference_CV: torch.Tensor, other_CV: torch.Tensor) -> torch.Tensor:
    """KL(reference || other) in nats of log-probabilities, [C]; a token of no probability adds nothing."""
    parts_CV = reference_CV.exp() * (reference_CV - other_CV)
    return torch.where(reference_CV == -torch.inf, 0.0, parts_CV).sum(dim=-1)


def ids_of(model: Any, batch: Sequence[Placed]) -> torch.Tensor:
    """Token ids of prompts of one length, where the model is."""
    return torch.tensor([placed.prompt.ids for placed in batch], device=model.device)


def shape_of(prompts: Sequence[Prompt], tokens: int) -> Shape:
    """What must be the same of two models that are compared."""
    ids = json_digest([list(prompt.ids) for prompt in prompts])
    return Shape(ids, sum(len(prompt.ids) for prompt in prompts), tokens)


def difference(reference: Shape, shape: Shape) -> str:
    """Why two models' predictions cannot be compared."""
    if reference.vocabulary != shape.vocabulary:
        return (
            f"the reference tells {reference.vocabulary} tokens apart, this model {shape.vocabulary}: "
            "their predictions cannot be compared"
        )
    return "the model's tokenizer gives other tokens than the reference's: predictions cannot be compared"
