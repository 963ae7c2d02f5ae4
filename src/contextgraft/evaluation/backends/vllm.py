"""The backend that runs a model in this process by vLLM, from token ids. Importing this needs vLLM."""

from collections.abc import Sequence
from typing import Any

from vllm import LLM, SamplingParams  # type: ignore[import-not-found]  # not installed for type checks

from contextgraft.evaluation.backends.base import GenerationRequest
from contextgraft.formats.model.pretrained import NO_REMOTE_CODE


class VllmGenerator:
    """Greedy generation by `LLM.generate`; vLLM batches, chunks and shares the prefill by itself.

    `overrides` replace values of the model's config.json.
    """

    def __init__(self, folder: str, *, dtype: str, longest: int, overrides: dict[str, Any]) -> None:
        self._llm = LLM(
            model=folder,
            dtype=dtype,
            max_model_len=longest,
            hf_overrides=overrides,
            enable_prefix_caching=True,
            **NO_REMOTE_CODE,
        )

    def __call__(self, requests: Sequence[GenerationRequest]) -> list[str]:
        """One text per request."""
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(request.prompt_ids)} for request in requests],
            [
                SamplingParams(
                    temperature=0.0, max_tokens=request.max_new_tokens, stop=list(filter(None, request.stop))
                )
                for request in requests
            ],
            use_tqdm=False,
        )
        return [output.outputs[0].text for output in outputs]
