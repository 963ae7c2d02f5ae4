"""The backend that runs a model in this process by transformers: chunked prefill, shared prefixes, greedy."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from contextgraft.evaluation.backends.base import (
    GenerationRequest,
    NoResponse,
    Outcome,
    PrefillCount,
    cut_at_stop,
    failed_response,
)
from contextgraft.evaluation.backends.generation import (
    cache_capabilities,
    crop_cache,
    end_tokens,
    greedy,
    prefill,
    reset_dynamic_rope,
)
from contextgraft.evaluation.backends.prefix_sharing import PromptBatch, plan_batches

# Most prompt tokens in one batch, whatever the batch size. On a CPU, larger activations are returned to the
# system and allocated again in every layer (see loading.keep_freed_memory); elsewhere memory is the limit.
BATCH_TOKENS = {"cpu": 4096}
BATCH_TOKENS_ELSEWHERE = 65_536


def batch_tokens(device: str) -> int:
    """Most prompt tokens in one batch on a kind of device."""
    return BATCH_TOKENS.get(device, BATCH_TOKENS_ELSEWHERE)


class TransformersBackend:
    """Greedy generation from token ids; prompts are neither padded, truncated nor tokenised again.

    Of the model's generation settings only the end tokens are used. A model whose cache cannot be passed on
    (see generation.CacheCapabilities) is run by transformers' own `generate`.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, batch_size: int, longest: int, prefill_chunk: int
    ) -> None:
        self.model = model
        self.prefill: PrefillCount | None = PrefillCount()
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._batch_tokens = batch_tokens(model.device.type)
        self._capabilities = cache_capabilities(model.config)
        self._chunk = prefill_chunk if self._capabilities.chunks else longest
        self._end_tokens = end_tokens(model, tokenizer)

    def responses(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Outcome]]:
        """The index of each request with its outcome; a batch that torch cannot run fails with a reason."""
        for index, ids in self.generations(requests):
            if isinstance(ids, NoResponse):
                yield index, ids
            else:
                yield index, cut_at_stop(self._decode(ids), requests[index].stop)

    def generations(
        self, requests: Sequence[GenerationRequest]
    ) -> Iterator[tuple[int, Sequence[int] | NoResponse]]:
        """The same as token ids, with the end token or stop string that ended them."""
        batches = plan_batches(
            [request.prompt_ids for request in requests],
            batch_size=self._batch_size,
            batch_tokens=self._batch_tokens,
            share=self._capabilities.crops,
        )
        run = self._run_chains if self._capabilities.cache else self._run_generate
        for batch in batches:
            waiting = set(batch.indices)
            try:
                for index, ids in run(batch, requests):
                    waiting.remove(index)
                    yield index, ids
            except RuntimeError as error:
                for index in sorted(waiting):
                    yield index, failed_response(error)

    def _run_chains(
        self, batch: PromptBatch, requests: Sequence[GenerationRequest]
    ) -> Iterator[tuple[int, Sequence[int]]]:
        """Indices and generated ids of one batch: chains in parallel, the prompts of a chain in turn."""
        cache = None
        for step, reused in enumerate(batch.reused):
            indices = [chain.indices[step] for chain in batch.chains]
            generated, cache = self._continue(cache, reused, [requests[index] for index in indices])
            yield from zip(indices, generated, strict=True)

    @torch.inference_mode()
    def _continue(
        self, cache: Any, reused: int, requests: Sequence[GenerationRequest]
    ) -> tuple[list[list[int]], Any]:
        """Generated ids for prompts of one length, of which the cache holds `reused`; and the grown cache."""
        ids_BT = self._prompt_ids(requests)
        if not self._capabilities.chunks:
            reset_dynamic_rope(self.model, ids_BT)
        cache, logits_BV = prefill(
            self.model, crop_cache(cache, reused), ids_BT, begin=reused, chunk=self._chunk
        )
        self._count(ids_BT, reused)
        budgets = [request.max_new_tokens for request in requests]
        generated = greedy(
            self.model, cache, logits_BV, budgets, lambda row, ids: self._stops(requests[row], ids)
        )
        return generated, cache

    @torch.inference_mode()
    def _run_generate(
        self, batch: PromptBatch, requests: Sequence[GenerationRequest]
    ) -> Iterator[tuple[int, Sequence[int]]]:
        """Indices and generated ids of one batch by `generate`, set to plain greedy decoding."""
        rows = [requests[index] for index in batch.indices]
        ids_BT = self._prompt_ids(rows)
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            max_new_tokens=max(request.max_new_tokens for request in rows),
            eos_token_id=sorted(self._end_tokens) or None,
            pad_token_id=0,  # after a row's end; what follows the end is removed below
        )
        with _no_generation_settings(self.model):
            out_BT = self.model.generate(
                ids_BT,
                attention_mask=torch.ones_like(ids_BT),
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([_AllStopped(self, rows, ids_BT.shape[1])]),
            )
        self._count(ids_BT, 0)
        for index, request, new_T in zip(batch.indices, rows, out_BT[:, ids_BT.shape[1] :], strict=True):
            yield index, self._until_stop(request, new_T.tolist())

    def _prompt_ids(self, requests: Sequence[GenerationRequest]) -> torch.Tensor:
        return torch.tensor([request.prompt_ids for request in requests], device=self.model.device)

    def _count(self, ids_BT: torch.Tensor, reused: int) -> None:
        assert self.prefill is not None
        self.prefill.prompt += ids_BT.numel()
        self.prefill.computed += ids_BT[:, reused:].numel()

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _stops(self, request: GenerationRequest, ids: Sequence[int]) -> bool:
        """Whether the last generated token ends the response: an end token, or a stop string is complete."""
        return ids[-1] in self._end_tokens or any(
            text and text in self._tokenizer.decode(ids) for text in request.stop
        )

    def _until_stop(self, request: GenerationRequest, ids: Sequence[int]) -> list[int]:
        """The ids that decoding token by token would generate: within the budget, up to the first stop."""
        within = list(ids[: request.max_new_tokens])
        ends = (n for n in range(1, len(within) + 1) if self._stops(request, within[:n]))
        return within[: next(ends, len(within))]


@contextmanager
def _no_generation_settings(model: Any) -> Iterator[None]:
    """Within the block the model has transformers' default generation settings; its own are put back.

    `generate` takes what its argument leaves open, such as suppressed tokens, from the model's settings. What
    is computed later with the same model reads its end tokens from them.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


class _AllStopped(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped
    """Ends `generate` early once every row of the batch has stopped or used its budget."""

    def __init__(
        self, backend: TransformersBackend, requests: Sequence[GenerationRequest], begin: int
    ) -> None:
        self._backend = backend
        self._requests = requests
        self._begin = begin

    def __call__(self, input_ids: torch.Tensor, _: Any, **__: Any) -> torch.Tensor:
        generated = input_ids[:, self._begin :].tolist()
        done = [
            len(ids) >= request.max_new_tokens or self._backend._stops(request, ids)
            for request, ids in zip(self._requests, generated, strict=True)
        ]
        return torch.tensor(done, device=input_ids.device)
