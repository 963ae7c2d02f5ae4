"""A chunk attends to the cache and to itself without a mask: the logits are those of one whole forward."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.parity.families.proof import auto_class, base_config
from tests.parity.families.table import FAMILIES
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

from contextgraft.attention.chunks import (
    NAME,
    attend,
    attend_chunk,
    chunk_mask,
    use_block_attention,
)
from contextgraft.evaluation.backends.generation import cache_capabilities, prefill
from contextgraft.evaluation.backends.loading import load_model
from contextgraft.evaluation.backends.logprobs import cached_logits

SIZES = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 16, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
TOKENS, CHUNK = 100, 24  # the last chunk is shorter; beyond the windows of 16 of the families
FACTOR = 3  # of the weights: attention that is not nearly uniform
# Of the largest logit. MiniMax's linear layers compute other values with a cache than without, also token by
# token in transformers alone.
TOLERANCE, OF_FAMILY = 5e-6, {"minimax": 1e-2}
KEPT = {  # families that are prefilled in chunks and keep their own attention, and why
    "gemma2": "softcap: eager", "vaultgemma": "softcap: eager", "gpt_oss": "sinks: eager",
    "gptj": "eager", "codegen": "eager", "gpt_neo": "eager", "bloom": "ALiBi: eager",
    "bloom without a length": "ALiBi: eager", "mpt": "ALiBi: eager",
    "falcon": "reads no attention from its config", "doge": "adds to the mask", "mllama": "cross attention",
    "llama4": "attends within chunks by masks alone", "llama4_text": "attends within chunks by masks alone",
    "llama4_text with experts": "attends within chunks by masks alone",
}  # fmt: skip


def random_model(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = auto_class(config).from_config(config, dtype=dtype).eval()
    for parameter in model.parameters():
        parameter.data.mul_(FACTOR if parameter.dim() > 1 else 1)
    return model


def attention_of(model: Any) -> str:
    name: str = model.config.get_text_config(decoder=True)._attn_implementation
    return name


@torch.inference_mode()
def distance(model: Any, tokens: int = TOKENS, chunk: int = CHUNK) -> float:
    """Largest difference of logits of chunks and of one whole forward by transformers, over the largest."""
    ids = torch.randint(3, 60, (2, tokens))
    whole = model(input_ids=ids, use_cache=False).logits
    use_block_attention(model)
    chunks = torch.cat(list(cached_logits(model, ids, chunk)), dim=1)
    return float((chunks - whole).abs().max() / whole.abs().max())


@pytest.mark.parametrize("name", ["LlamaConfig", "Qwen2Config"])
@pytest.mark.parametrize("chunk", [2, CHUNK, TOKENS - 1])
def test_chunks_have_the_logits_of_one_forward(name: str, chunk: int) -> None:
    model = random_model(getattr(transformers, name)(**SIZES), torch.float64)
    assert distance(model, chunk=chunk) < 1e-12
    assert attention_of(model) == NAME


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_the_logits_of_one_forward(name: str) -> None:
    model = random_model(base_config(name, FAMILIES[name]))
    before = attention_of(model)
    if not cache_capabilities(model.config).chunks:
        return  # load_model keeps its attention, as the next test shows
    if name in KEPT:
        use_block_attention(model)
        assert attention_of(model) == before != NAME
    else:
        assert distance(model) < OF_FAMILY.get(name, TOLERANCE)
        assert attention_of(model) == NAME


def test_a_model_whose_prompts_are_computed_whole_keeps_its_attention(tmp_path: Path) -> None:
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    random_model(transformers.LlamaConfig(**SIZES, rope_parameters=dynamic)).save_pretrained(tmp_path)
    assert attention_of(load_model(tmp_path, torch.device("cpu"), "float32")) == "sdpa"


@pytest.mark.parametrize("name", ["doge", "gpt_oss"])
def test_attention_with_more_than_a_causal_mask_is_kept(name: str) -> None:
    model = random_model(base_config(name, FAMILIES[name]))
    before = attention_of(model)
    use_block_attention(model)
    assert attention_of(model) == before != NAME


class _LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch is untyped here
    """Elements in the memory of the largest tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in (out if isinstance(out, tuple | list) else [out]) if torch.is_tensor(x)]
        sizes = [x.untyped_storage().nbytes() // x.element_size() for x in tensors]
        self.elements = max(self.elements, *sizes, 0)
        return out


def test_no_tensor_has_the_size_of_a_mask_or_of_repeated_keys(tmp_path: Path) -> None:
    tokens, chunk = 2048, 64
    random_model(transformers.LlamaConfig(**SIZES)).save_pretrained(tmp_path)
    model = load_model(tmp_path, torch.device("cpu"), "float32")
    largest = _LargestTensor()
    with torch.inference_mode(), largest:
        prefill(model, None, torch.randint(64, (1, tokens)), begin=0, chunk=chunk)
    # Keys of two heads of size 4 in a cache; a mask has as many elements as keys repeated for 16 heads.
    assert 2 * tokens * 4 <= largest.elements < chunk * tokens == 16 * tokens * 4


@pytest.mark.parametrize("value_size", [16, 24, 40])
def test_heads_of_other_size_for_values(value_size: int) -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 4, 5, 24, dtype=torch.float64)
    k = torch.randn(2, 2, 12, 24, dtype=torch.float64)
    v = torch.randn(2, 2, 12, value_size, dtype=torch.float64)
    scores = q @ k.repeat_interleave(2, 1).mT * 0.3
    future = torch.ones(5, 12, dtype=torch.bool).triu(8)
    expected = scores.masked_fill(future, float("-inf")).softmax(-1) @ v.repeat_interleave(2, 1)
    torch.testing.assert_close(attend_chunk(q, k, v, 0.3), expected)


def test_what_the_kernel_does_not_compute_has_its_mask() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 7, 8), torch.randn(1, 2, 7, 8)
    bias = torch.randn(1, 2, 3, 7)
    out, _ = attend(torch.nn.Module(), q, k, v, None, position_bias=bias)
    scores = q @ k.mT * 8**-0.5 + bias
    future = torch.ones(3, 7, dtype=torch.bool).triu(5)
    expected = scores.masked_fill(future, float("-inf")).softmax(-1) @ v
    torch.testing.assert_close(out, expected.transpose(1, 2))


PLAIN: dict[str, Any] = {"batch_size": 1, "q_length": 3, "kv_length": 8, "q_offset": 5}
WINDOW = {"mask_function": sliding_window_causal_mask_function(2), "local_size": 2}
PADDED = {"attention_mask": torch.tensor([[False] + [True] * 7])}


@pytest.mark.parametrize(
    ("changes", "none"),
    [
        ({}, True),
        ({"attention_mask": torch.ones(1, 8, dtype=torch.bool)}, True),
        (PADDED, False),
        (WINDOW, False),
        ({"allow_is_causal_skip": False}, False),
        ({"q_offset": 0}, False),  # an empty cache of fixed size
        ({"kv_offset": 1, "q_offset": 6}, False),
    ],
)
def test_only_a_plain_causal_chunk_has_no_mask(changes: dict[str, Any], none: bool) -> None:
    mask = chunk_mask(**{**PLAIN, **changes})
    assert (mask is None) == none
    if mask is not None:
        first, begin = changes.get("q_offset", 5), changes.get("kv_offset", 0)
        rule = changes.get("mask_function", causal_mask_function)
        expected = [
            [bool(rule(0, 0, torch.tensor(first + q), torch.tensor(begin + k))) for k in range(8)]
            for q in range(3)
        ]
        seen = changes.get("attention_mask", torch.ones(1, 8, dtype=torch.bool))
        assert torch.equal(mask[0, 0], torch.tensor(expected) & seen)
