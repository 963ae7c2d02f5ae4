"""How well a model predicts long text, by the position of the predicted token."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from contextgraft.evaluation.backends.loading import check_vocabulary
from contextgraft.evaluation.backends.logprobs import batches, chunks
from contextgraft.evaluation.backends.tokenizer import Tokens
from contextgraft.evaluation.suites.base import Row, Subject, failure, missed, scored, too_long
from contextgraft.evaluation.suites.text_prompts import Prompt, Prompts, decoded, largest_id

FIRST_EDGE = 64


@dataclass(frozen=True)
class PerplexityMeasure:
    """Windows of a text, each of `length` tokens, every one but the first predicted.

    A row is a window and a range of positions; its score is the mean negative log-likelihood in nats.
    """

    source: Prompts
    length: int
    suite: ClassVar[str] = "perplexity"

    def key(self) -> dict[str, Any]:
        """The windows'."""
        return {"suite": self.suite, **self.source.key()}

    def check(self, tokens: Tokens) -> None:
        """The text must be long enough and in the tokenizer's words."""
        self.source.prompts(tokens)

    def count(self) -> int:
        """Windows."""
        return self.source.count_all()

    def longest(self, tokens: Tokens) -> int:  # noqa: ARG002 - of any tokenizer
        """Tokens of a window."""
        return self.length

    def again(self, row: Mapping[str, Any]) -> "PerplexityMeasure":
        """The row's window alone."""
        return replace(self, source=self.source.again(row), length=row["length"])

    def text(self, tokens: Tokens) -> str:
        """The windows as texts."""
        return decoded(self.source, tokens)

    def ready(self, work: Path, reference: str) -> bool:  # noqa: ARG002 - nothing is needed
        """Always."""
        return True

    def rows(self, subject: Subject, advance: Callable[[int], object] = int) -> list[Row]:
        """Windows side by side where they are short; those that torch cannot run (memory, say) fail.

        A tokenizer of more tokens than the model has rows raises MismatchError.
        """
        reason = too_long(subject.model, self.length)
        if reason is not None:
            return self.unmeasured(subject.tokens, "truncated", reason)
        prompts = self.source.prompts(subject.tokens)
        check_vocabulary(subject.model, subject.path, largest_id(prompts))
        rows: list[Row] = []
        for batch in batches(prompts, self.length):
            try:
                nats_BT = losses(subject.model, torch.tensor([prompt.ids for prompt in batch]))
            except RuntimeError as error:
                rows += [missed(row, "failed", failure(error)) for row in self._blank(batch)]
            else:
                rows += self._scored(batch, nats_BT)
            advance(len(batch))
        return rows

    def unmeasured(self, tokens: Tokens, status: str, reason: str) -> list[Row]:
        """Every window and range without a score."""
        return [missed(row, status, reason) for row in self._blank(self.source.prompts(tokens))]

    def _scored(self, batch: Sequence[Prompt], nats_BT: torch.Tensor) -> list[Row]:
        scores = [
            float(nats_T[first - 2 : last - 1].double().mean())
            for nats_T in nats_BT
            for first, last in ranges(self.length)
        ]
        return [scored(row, score) for row, score in zip(self._blank(batch), scores, strict=True)]

    def _blank(self, prompts: Sequence[Prompt]) -> list[Row]:
        return [
            {
                "suite": self.suite,
                "task": self.source.name,
                "document": prompt.document,
                "length": self.length,
                "prompt_tokens": self.length,
                "prompt_digest": prompt.digest,
                "seed": self.source.seed,
                "index": prompt.document,
                "position": last,
                "tokens": last - first + 1,
                "recipe": prompt.recipe,
                "scoring": "nll",
            }
            for prompt in prompts
            for first, last in ranges(self.length)
        ]


def losses(model: Any, ids_BT: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood in nats of every token but the first, [B, T - 1], float32 on the processor."""
    ids_BT = ids_BT.to(model.device)
    found = []
    for start, logs_BCV in chunks(model, ids_BT):
        next_BC = ids_BT[:, start + 1 : start + 1 + logs_BCV.shape[1]]
        logs_BC = logs_BCV[:, : next_BC.shape[1]].gather(2, next_BC[..., None])[..., 0]
        found.append(-logs_BC.cpu())
    return torch.cat(found, dim=1)


def ranges(length: int) -> list[tuple[int, int]]:
    """First and last position, counted from 1, of each range of predicted tokens.

    Ranges end at 64, 128, 256 and so on, the last one at `length`; the first token is not predicted.
    """
    ends = [FIRST_EDGE]
    while ends[-1] < length:
        ends.append(ends[-1] * 2)
    ends = [end for end in ends if end < length] + [length]
    return list(zip([2, *(end + 1 for end in ends[:-1])], ends, strict=True))
