"""lm-eval's vLLM backend, given token ids instead of text. Importing this needs vLLM."""

from collections.abc import Sequence
from typing import Any

from lm_eval.models.vllm_causallms import VLLM

from contextgraft.evaluation.requests import request_to_ids


class VllmTokenLM(VLLM):  # type: ignore[misc]  # lm-eval is untyped
    """Requests are token ids in decimal; vLLM shares and chunks the prefill by itself."""

    def tok_encode(self, string: str | Sequence[str], *_: Any, **__: Any) -> Any:
        """The ids of a request, or of each."""
        if isinstance(string, str):
            return request_to_ids(string)
        return [request_to_ids(each) for each in string]
