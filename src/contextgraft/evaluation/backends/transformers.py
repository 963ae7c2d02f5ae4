"""lm-eval's Hugging Face backend, given token ids instead of text, with prefill in chunks and shared."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from contextgraft.evaluation.backends.base import Outcome, Prefill, failure
from contextgraft.evaluation.backends.generation import (
    ability,
    cut_back,
    end_tokens,
    forget_longer,
    greedy,
    prefill,
)
from contextgraft.evaluation.backends.prefix_sharing import Batch, plan
from contextgraft.evaluation.requests import cut, request_to_ids

# Most prompt tokens at once, whatever the batch size. On a processor, larger activations go to the system and
# back with every layer (see models.keep_freed_memory); elsewhere memory is what runs out.
BATCH_TOKENS = {"cpu": 4096}
BATCH_TOKENS_ELSEWHERE = 65_536


def batch_tokens(device: str) -> int:
    """Most prompt tokens at once on a kind of device."""
    return BATCH_TOKENS.get(device, BATCH_TOKENS_ELSEWHERE)


class TokenLM(HFLM):  # type: ignore[misc]  # lm-eval is untyped
    """Requests are token ids in decimal: no tokenizer stands between a prompt and the model.

    Text would be tokenised again, and segments that were tokenised apart need not come back as the same ids.
    Answers are greedy; of the model's generation settings only the end tokens count. Nothing is padded.
    A model whose cache cannot be handed on is driven by lm-eval's own loop; a prompt it would cut raises.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, batch_size: int, longest: int, prefill_chunk: int
    ) -> None:
        super().__init__(
            pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size, max_length=longest
        )
        self.prefill = Prefill()
        self._most = batch_size
        self._most_tokens = batch_tokens(model.device.type)
        self._can = ability(model.config)
        self._chunk = prefill_chunk if self._can.chunks else longest
        self._ends = end_tokens(model, tokenizer)

    def tok_encode(self, string: str, *_: Any, **__: Any) -> list[int]:
        """The ids of a request."""
        return request_to_ids(string)

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

    def answers(self, requests: Sequence[Instance]) -> Iterator[tuple[Instance, Outcome]]:
        """Every request with its outcome; a batch that torch cannot run (memory, say) fails with a reason."""
        prompts = [request_to_ids(request.args[0]) for request in requests]
        batches = plan(prompts, batch_size=self._most, batch_tokens=self._most_tokens, share=self._can.crops)
        run = self._batch if self._can.cache else self._stock_batch
        for batch in batches:
            waiting = set(batch.places)
            try:
                for place, output in run(batch, prompts, requests):
                    waiting.remove(place)
                    yield requests[place], output
            except RuntimeError as error:
                for place in sorted(waiting):
                    yield requests[place], failure(error)

    def _batch(
        self, batch: Batch, prompts: Sequence[Sequence[int]], requests: Sequence[Instance]
    ) -> Iterator[tuple[int, str]]:
        """Places and outputs of one batch: chain beside chain, one prompt of each after the other."""
        cache = None
        for step, reused in enumerate(batch.reused):
            places = [chain.places[step] for chain in batch.chains]
            outputs, cache = self._continue(cache, reused, places, prompts, requests)
            yield from zip(places, outputs, strict=True)

    @torch.inference_mode()
    def _continue(
        self,
        cache: Any,
        reused: int,
        places: Sequence[int],
        prompts: Sequence[Sequence[int]],
        requests: Sequence[Instance],
    ) -> tuple[list[str], Any]:
        """Outputs of prompts of one length, of which the cache holds `reused` tokens; and the cache grown."""
        ids_BT = torch.tensor([prompts[place] for place in places], device=self.device)
        ways = [requests[place].args[1] for place in places]

        def ends(row: int, ids: Sequence[int]) -> bool:
            return ids[-1] in self._ends or any(
                text and text in self.tokenizer.decode(ids) for text in ways[row]["until"]
            )

        if not self._can.chunks:
            forget_longer(self.model, ids_BT)
        cache, logits_BV = prefill(
            self.model, cut_back(cache, reused), ids_BT, begin=reused, chunk=self._chunk
        )
        self.prefill.prompt += ids_BT.numel()
        self.prefill.computed += ids_BT[:, reused:].numel()
        generated = greedy(self.model, cache, logits_BV, [way["max_gen_toks"] for way in ways], ends)
        texts = [self.tok_decode(ids) or "" for ids in generated]
        return [cut(text, way["until"]) for text, way in zip(texts, ways, strict=True)], cache

    def _stock_batch(
        self, batch: Batch, _: Sequence[Sequence[int]], requests: Sequence[Instance]
    ) -> Iterator[tuple[int, str]]:
        """Places and outputs of one batch by lm-eval's own loop."""
        self.batch_size_per_gpu = len(batch.places)
        with torch.inference_mode():
            outputs = super().generate_until([requests[place] for place in batch.places], disable_tqdm=True)
        self.prefill.prompt += batch.prefilled
        self.prefill.computed += batch.prefilled
        yield from zip(batch.places, outputs, strict=True)
