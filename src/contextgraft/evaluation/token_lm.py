"""lm-eval's Hugging Face backend, given token ids instead of text."""

from collections.abc import Callable
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

# Most prompt tokens at once, whatever the batch size. On a processor, larger activations go to the system and
# back with every layer (see models.keep_freed_memory); elsewhere memory is what runs out.
BATCH_TOKENS = {"cpu": 4096}
BATCH_TOKENS_ELSEWHERE = 65_536


def ids_to_request(ids: tuple[int, ...]) -> str:
    """Token ids as the text of an lm-eval request."""
    return " ".join(map(str, ids))


class TokenLM(HFLM):  # type: ignore[misc]  # lm-eval is untyped
    """Requests are token ids in decimal: no tokenizer stands between a prompt and the model.

    Text would be tokenised again, and segments that were tokenised apart need not come back as the same ids.
    All prompts of a batch have the same length, so nothing is padded, and a prompt that would be cut raises.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, batch_size: int, longest: int, asked: Callable[[int], None]
    ) -> None:
        super().__init__(
            pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size, max_length=longest
        )
        self._asked = asked
        self._most = batch_size
        self._most_tokens = BATCH_TOKENS.get(model.device.type, BATCH_TOKENS_ELSEWHERE)

    def tok_encode(self, string: str, *_: Any, **__: Any) -> list[int]:
        """The ids of a request."""
        return [int(token) for token in string.split()]

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",  # noqa: ARG002 - nothing is padded
        left_truncate_len: int | None = None,
        truncation: bool = False,  # noqa: ARG002 - nothing is cut
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and attention mask of a batch, both [batch, tokens]."""
        ids = torch.tensor([self.tok_encode(string) for string in strings])
        assert left_truncate_len is None or ids.shape[1] <= left_truncate_len, "a prompt would be cut"
        return ids, torch.ones_like(ids)

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str | None:
        """Text of ids; a tokenizer without an end token asks for the text of None, which is none."""
        if tokens is None:
            return None
        text: str = super().tok_decode(tokens, skip_special_tokens=skip_special_tokens)
        return text

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """Greedy continuations of prompts of one length; progress is told by the callback."""
        length = len(self.tok_encode(requests[0].args[0]))
        self.batch_size_per_gpu = max(1, min(self._most, self._most_tokens // length))
        outputs: list[str] = super().generate_until(requests, disable_tqdm=True)
        return outputs

    def _model_generate(self, context: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        with torch.inference_mode():
            generated: torch.Tensor = super()._model_generate(context, *args, **kwargs)
        self._asked(len(context))
        return generated
