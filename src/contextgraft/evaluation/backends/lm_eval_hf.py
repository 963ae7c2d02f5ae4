"""lm-eval's Hugging Face backend with text as it comes, that cuts nothing."""

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from contextgraft.evaluation.backends.loading import positions

UNASKED = (0.0, False)  # stands for the log-likelihood of what was not asked; its score is left out


class TextLM(HFLM):  # type: ignore[misc]  # lm-eval is untyped
    """Requests of tasks that are not ours: text, which the model's own tokenizer turns into ids.

    lm-eval cuts what is longer than its limit from the left; here the limit is the longest request, and what
    a model has no positions for is not asked at all. `lengths` has the tokens of every document's longest
    request, `unasked` the documents that are too long. With `only`, no other document is asked.
    """

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int, only: int | None = None) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
        self._room = positions(model.config)
        self._only = only
        self.lengths: dict[int, int] = {}
        self.unasked: set[int] = set()

    @property
    def room(self) -> int | None:
        """Most tokens the model can be given; None where there is no limit."""
        return self._room

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[Any]:  # noqa: ARG002
        """Log-likelihood and whether it is greedy, for each context and continuation."""
        return self._asked(requests, super().loglikelihood, UNASKED)

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[Any]:  # noqa: ARG002
        """A continuation of each context."""
        return self._asked(requests, super().generate_until, "")

    def tok_encode(self, string: str, *args: Any, **options: Any) -> list[int]:
        """Ids of a text; a tokenizer without begin and end token adds none."""
        if self.prefix_token_id is None:
            options["add_special_tokens"] = False
        ids: list[int] = super().tok_encode(string, *args, **options)
        return ids

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str | None:
        """Text of ids; a tokenizer without an end token asks for the text of None, which is none."""
        if tokens is None:
            return None
        text: str = super().tok_decode(tokens, skip_special_tokens=skip_special_tokens)
        return text

    def _asked(self, requests: Sequence[Instance], ask: Callable[..., list[Any]], none: Any) -> list[Any]:
        lengths = [self._tokens(request) for request in requests]
        for request, length in zip(requests, lengths, strict=True):
            self.lengths[request.doc_id] = max(length, self.lengths.get(request.doc_id, 0))
        self.unasked = {
            document
            for document, length in self.lengths.items()
            if self._room is not None and length > self._room
        }
        wanted = [self._wants(request.doc_id) for request in requests]
        asked = [request for request, want in zip(requests, wanted, strict=True) if want]
        self._max_length = max(lengths, default=0) + 1
        answers = iter(ask(asked, disable_tqdm=True) if asked else ())
        return [next(answers) if want else none for want in wanted]

    def _wants(self, document: int) -> bool:
        return document not in self.unasked and self._only in (None, document)

    def _tokens(self, request: Instance) -> int:
        """Tokens of a request with all that may follow it."""
        context, rest = request.args
        if isinstance(rest, str):
            return len(self.tok_encode(context)) + len(self.tok_encode(rest, add_special_tokens=False))
        return len(self.tok_encode(context)) + int(rest.get("max_gen_toks", self.max_gen_toks))
