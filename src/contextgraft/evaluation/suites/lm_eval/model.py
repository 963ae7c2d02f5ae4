"""lm-eval's Hugging Face model, changed so that it never truncates a request."""

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from contextgraft.evaluation.backends.loading import max_positions

NO_LIKELIHOOD = (0.0, False)  # for requests that are not run; their scores are not used


class TextLM(HFLM):  # type: ignore[misc]  # lm-eval is untyped
    """Runs the requests of lm-eval's own tasks: text, which the model's tokenizer turns into ids.

    lm-eval truncates requests beyond its limit from the left; here the limit is the longest request, and
    documents that exceed the model's positions are not run at all. `lengths` has the tokens of every
    document's longest request, `too_long` the documents that were not run. With `only`, one document is run.
    """

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int, only: int | None = None) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
        self._positions = max_positions(model.config)
        self._only = only
        self.lengths: dict[int, int] = {}
        self.too_long: set[int] = set()

    @property
    def positions(self) -> int | None:
        """Most tokens that the model can read; None if there is no limit."""
        return self._positions

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[Any]:  # noqa: ARG002
        """Log-likelihood and whether it is greedy, for each context and continuation."""
        return self._run(requests, super().loglikelihood, NO_LIKELIHOOD)

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[Any]:  # noqa: ARG002
        """A continuation of each context."""
        return self._run(requests, super().generate_until, "")

    def tok_encode(self, string: str, *args: Any, **options: Any) -> list[int]:
        """Ids of a text; a tokenizer without begin and end token adds none."""
        if self.prefix_token_id is None:
            options["add_special_tokens"] = False
        ids: list[int] = super().tok_encode(string, *args, **options)
        return ids

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str | None:
        """Text of ids; None for None, which lm-eval passes if the tokenizer has no end token."""
        if tokens is None:
            return None
        text: str = super().tok_decode(tokens, skip_special_tokens=skip_special_tokens)
        return text

    def _run(
        self, requests: Sequence[Instance], run: Callable[..., list[Any]], placeholder: Any
    ) -> list[Any]:
        lengths = [self._tokens(request) for request in requests]
        for request, length in zip(requests, lengths, strict=True):
            self.lengths[request.doc_id] = max(length, self.lengths.get(request.doc_id, 0))
        self.too_long = {
            document
            for document, length in self.lengths.items()
            if self._positions is not None and length > self._positions
        }
        wants = [self._is_selected(request.doc_id) for request in requests]
        selected = [request for request, want in zip(requests, wants, strict=True) if want]
        self._max_length = max(lengths, default=0) + 1
        results = iter(run(selected, disable_tqdm=True) if selected else ())
        return [next(results) if want else placeholder for want in wants]

    def _is_selected(self, document: int) -> bool:
        return document not in self.too_long and self._only in (None, document)

    def _tokens(self, request: Instance) -> int:
        """Tokens of a request with all that may follow it."""
        context, rest = request.args
        if isinstance(rest, str):
            return len(self.tok_encode(context)) + len(self.tok_encode(rest, add_special_tokens=False))
        return len(self.tok_encode(context)) + int(rest.get("max_gen_toks", self.max_gen_toks))
