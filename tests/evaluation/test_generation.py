"""Chunked prefill with shared beginnings answers as transformers' own generation does, in little memory."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from contextgraft.evaluation.backends.base import GenerationRequest
from contextgraft.evaluation.backends.generation import CacheCapabilities, cache_capabilities, end_tokens
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.backends.transformers import TransformersBackend

MakeModel = Callable[..., Path]
SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
WHOLE = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
CASES: dict[str, tuple[str, dict[str, Any], CacheCapabilities]] = {
    "llama": ("LlamaConfig", {}, CacheCapabilities(cache=True, chunks=True, crops=True)),
    "qwen2": ("Qwen2Config", {}, CacheCapabilities(cache=True, chunks=True, crops=True)),
    "gemma": ("GemmaConfig", {"head_dim": 8}, CacheCapabilities(cache=True, chunks=True, crops=True)),
    "opt": (
        "OPTConfig",
        {"ffn_dim": 32, "word_embed_proj_dim": 32, "max_position_embeddings": 128},
        CacheCapabilities(cache=True, chunks=True, crops=True),
    ),
    "sliding": (
        "MistralConfig",
        {"sliding_window": 16},
        CacheCapabilities(cache=True, chunks=True, crops=False),
    ),
    "mixed": (
        "Gemma3TextConfig",
        {"head_dim": 8, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
        CacheCapabilities(cache=True, chunks=True, crops=False),
    ),
    "dynamic": (
        "LlamaConfig",
        {"rope_parameters": WHOLE},
        CacheCapabilities(cache=True, chunks=False, crops=False),
    ),
    "recurrent": ("MambaConfig", {}, CacheCapabilities(cache=False, chunks=False, crops=False)),
}


def make(case: str) -> Any:
    """A random model with weights large enough for answers that differ."""
    name, changes, _ = CASES[case]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, name)(**{**SIZES, **changes})).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3 if parameter.dim() > 1 else 1)
    return model


@pytest.fixture
def prompts() -> list[list[int]]:
    """Some that share almost all, half, or nothing, of two lengths."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> list[int]:
        drawn: list[int] = torch.randint(40, (count,), generator=generator).tolist()
        return drawn

    shared = draw(60)
    return [shared[:cut] + draw(length - cut) for length in (70, 73) for cut in (60, 58, 60, 30, 0)]


def requests_of(prompts: list[list[int]], budget: int = 12) -> list[GenerationRequest]:
    return [GenerationRequest(tuple(ids), budget) for ids in prompts]


def backend_of(model: Any, tokens: PromptTokenizer, chunk: int = 7) -> TransformersBackend:
    return TransformersBackend(model, tokens.hf, batch_size=4, longest=200, prefill_chunk=chunk)


def stock(model: Any, ids: list[int], budget: int = 12) -> list[int]:
    """What transformers generates, nothing of the prompt masked and nothing remembered of other prompts."""
    given = torch.tensor([ids])
    out = deepcopy(model).generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=budget, do_sample=False, pad_token_id=0
    )
    generated: list[int] = out[0, len(ids) :].tolist()
    return generated


SAME_CACHE = ("qwen2", "gemma", "mixed")  # as another case has it
MARKED_CASES = [pytest.param(case, marks=pytest.mark.slow) if case in SAME_CACHE else case for case in CASES]


@pytest.mark.parametrize("case", MARKED_CASES)
def test_answers_are_those_of_generate(case: str, prompts: list[list[int]], tokens: PromptTokenizer) -> None:
    model = make(case)
    assert cache_capabilities(model.config) == CASES[case][2]
    lm = backend_of(deepcopy(model), tokens)
    answers = dict(lm.responses(requests_of(prompts)))
    expected = [tokens.decode(stock(model, ids)) for ids in prompts]
    assert [answers[place] for place in range(len(prompts))] == expected
    assert len(set(expected)) > 2
    total = sum(map(len, prompts))
    assert lm.prefill is not None
    assert lm.prefill.prompt == total
    assert (lm.prefill.computed < total) == CASES[case][2].crops


HOSTILE_SETTINGS: tuple[dict[str, Any], ...] = (
    {"suppress_tokens": list(range(30)), "max_time": 1e-9},
    {"penalty_alpha": 0.6, "top_k": 4},  # would load code from the hub
    {"watermarking_config": {"bias": 9.0}, "return_dict_in_generate": True, "stop_strings": ["a"]},
    {"exponential_decay_length_penalty": [1, 2.0], "forced_bos_token_id": 9, "use_mtp": True},
)


@pytest.mark.parametrize("case", ["recurrent", "llama"])
def test_generation_settings_of_a_folder_change_no_answer(
    case: str, prompts: list[list[int]], tokens: PromptTokenizer
) -> None:
    requests, model = requests_of(prompts[:3]), make(case)
    expected = sorted(backend_of(deepcopy(model), tokens).responses(requests))
    for hostile in HOSTILE_SETTINGS:
        for name, value in hostile.items():
            setattr(model.generation_config, name, value)
        assert sorted(backend_of(model, tokens).responses(requests)) == expected, hostile


def test_logits_are_held_of_one_position_only(tokens: PromptTokenizer, prompts: list[list[int]]) -> None:
    model = make("llama")
    held: list[torch.Size] = []
    widths: list[int] = []
    model.lm_head.register_forward_hook(lambda _, __, logits: held.append(logits.shape))
    model.model.embed_tokens.register_forward_pre_hook(lambda _, given: widths.append(given[0].shape[1]))
    list(backend_of(model, tokens, chunk=16).responses(requests_of(prompts)))
    assert {shape[1] for shape in held} == {1}
    assert max(widths) == 16


def test_questions_of_a_document_cost_less_than_half_of_their_prefill(tokens: PromptTokenizer) -> None:
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randint(40, (100,), generator=generator).tolist() for _ in range(4)]
    prompts = [[*document[:95], depth, depth, depth] for document in drawn for depth in range(5)]
    model = make("llama")
    seen: list[int] = []
    model.model.embed_tokens.register_forward_pre_hook(
        lambda _, given: seen.append(given[0].numel() if given[0].shape[1] > 1 else 0)
    )
    lm = backend_of(model, tokens, chunk=500)
    list(lm.responses(requests_of(prompts, budget=1)))
    assert lm.prefill is not None
    assert sum(seen) == lm.prefill.computed == 4 * (98 + 4 * 3)
    assert lm.prefill.computed <= lm.prefill.prompt / 4


def test_a_failed_batch_leaves_no_cache_behind(tokens: PromptTokenizer, prompts: list[list[int]]) -> None:
    model = make("llama")
    lm = backend_of(model, tokens)
    before = dict(enumerate(output for _, output in sorted_answers(lm, prompts)))

    def no_memory(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[1] == 3:  # the end of a prompt after a shared beginning
            raise torch.OutOfMemoryError("tried to allocate 3 GiB")

    hook = model.register_forward_pre_hook(no_memory, with_kwargs=True)
    broken = sorted_answers(lm, prompts)
    hook.remove()
    assert any(not isinstance(outcome, str) for _, outcome in broken)
    assert all(outcome == before[place] for place, outcome in broken if isinstance(outcome, str))
    assert dict(sorted_answers(lm, prompts)) == before


def sorted_answers(lm: TransformersBackend, prompts: list[list[int]]) -> list[tuple[int, Any]]:
    return sorted(lm.responses(requests_of(prompts)), key=lambda response: response[0])


def test_models_may_end_at_several_tokens(tokens: PromptTokenizer) -> None:
    model = make("llama")
    assert end_tokens(model, tokens.hf) == frozenset()
    model.generation_config.eos_token_id = [3, 5]
    assert end_tokens(model, tokens.hf) == {3, 5}
    model.generation_config.eos_token_id = 4
    assert end_tokens(model, tokens.hf) == {4}
