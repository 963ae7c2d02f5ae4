"""Perplexity: the cross entropy of one whole forward, of which no more than a chunk is ever held."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from contextgraft.errors import MismatchError
from contextgraft.evaluation.backends import logprobs
from contextgraft.evaluation.backends.loading import load_model
from contextgraft.evaluation.backends.logprobs import negative_log_likelihoods
from contextgraft.evaluation.backends.tokenizer import load_tokenizer
from contextgraft.evaluation.suites.base import LoadedModel
from contextgraft.evaluation.suites.perplexity import PerplexityMeasurement, position_ranges
from contextgraft.evaluation.suites.text_prompts import Text, TextWindows

SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    "sliding": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=16)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SMALL, sliding_window=16, layer_types=["sliding_attention", "full_attention"])
    ),
    "yarn": lambda: LlamaForCausalLM(
        LlamaConfig(**SMALL, rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4})
    ),
    "dynamic": lambda: LlamaForCausalLM(
        LlamaConfig(**SMALL, rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4})
    ),
    "mamba": lambda: MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_positions=256, n_embd=32, n_layer=2, n_head=2)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_chunks_give_the_cross_entropy_of_one_forward(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "PASS_TOKENS", 48)
    torch.manual_seed(1)
    model = MODELS[name]().eval()
    ids_BT = torch.randint(50, (2, 201))
    found_BT = negative_log_likelihoods(model, ids_BT)
    with torch.inference_mode():
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
    whole_BT = cross_entropy(logits_BTV[:, :-1].transpose(1, 2), ids_BT[:, 1:], reduction="none")
    assert found_BT.shape == (2, 200)
    torch.testing.assert_close(found_BT, whole_BT, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "dynamic"])
def test_no_logits_are_longer_than_a_chunk(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "LOGITS", 50 * 32)
    model = MODELS[name]().eval()
    sizes: list[tuple[int, ...]] = []
    model.lm_head.register_forward_hook(lambda _, __, logits: sizes.append(tuple(logits.shape)))
    negative_log_likelihoods(model, torch.randint(50, (1, 300)))
    assert sizes == [(1, 32, 50)] * 9 + [(1, 12, 50)]
    sizes.clear()
    negative_log_likelihoods(model, torch.randint(50, (4, 20)))
    assert sizes == [(4, 8, 50)] * 2 + [(4, 4, 50)]


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (40, [(2, 40)]),
        (64, [(2, 64)]),
        (65, [(2, 64), (65, 65)]),
        (300, [(2, 64), (65, 128), (129, 256), (257, 300)]),
    ],
)
def test_ranges_cover_every_predicted_token_once(length: int, expected: list[tuple[int, int]]) -> None:
    assert position_ranges(length) == expected


def subject(path: Path, work: Path, model: Any = None) -> LoadedModel:
    model = model or load_model(path, torch.device("cpu"), "float32")
    return LoadedModel(model, load_tokenizer(path), path, 8, work, "a", "a", "a")


@pytest.fixture
def measure() -> PerplexityMeasurement:
    text = Text("filler", "0" * 64, "it was a dark night and nobody came " * 50)
    return PerplexityMeasurement(TextWindows(text, 150, 3, 7), 150)


def test_a_row_is_a_window_and_a_range(
    measure: PerplexityMeasurement, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    who = subject(make_model(), tmp_path)
    heard: list[int] = []
    rows = measure.rows(who, heard.append)
    assert sum(heard) == len(measure) == 3
    assert [(row["document"], row["position"], row["tokens"]) for row in rows] == [
        (document, *ends) for document in range(3) for ends in ((64, 63), (128, 64), (150, 22))
    ]
    window = measure.source.prompts(who.tokenizer)[1]
    ids_T = torch.tensor(window.ids)
    with torch.inference_mode():
        whole_T = cross_entropy(who.model(ids_T[None]).logits[0, :-1], ids_T[1:], reduction="none")
    expected = [float(part.mean()) for part in torch.split(whole_T, [63, 64, 22])]
    assert [row["score"] for row in rows[3:6]] == pytest.approx(expected, abs=1e-4)
    assert {row["status"] for row in rows} == {"ok"}


def test_windows_side_by_side_score_as_they_do_alone(
    measure: PerplexityMeasurement,
    make_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    who = subject(make_model(), tmp_path)
    together = [row["score"] for row in measure.rows(who)]
    monkeypatch.setattr(logprobs, "PASS_TOKENS", 100)
    assert [row["score"] for row in measure.rows(who)] == pytest.approx(together, abs=1e-5)


def test_a_model_that_knows_nothing_has_the_nats_of_its_vocabulary(
    measure: PerplexityMeasurement, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    who = subject(make_model(), tmp_path)
    with torch.no_grad():
        who.model.get_input_embeddings().weight.zero_()
    expected = math.log(who.model.config.vocab_size)
    assert [row["score"] for row in measure.rows(who)] == pytest.approx([expected] * 9, abs=1e-5)


def test_what_a_model_cannot_do_is_said_in_its_rows(
    measure: PerplexityMeasurement, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_model()
    short = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=128, n_embd=16, n_layer=1, n_head=2))
    rows = measure.rows(subject(path, tmp_path, short.eval()))
    assert {(row["status"], row["score"]) for row in rows} == {("truncated", None)}
    assert len(rows) == 9
    assert "128 positions" in rows[0]["reason"]

    who = subject(path, tmp_path)
    with torch.no_grad():
        who.model.get_input_embeddings().weight.fill_(math.nan)
    assert {(row["status"], row["score"]) for row in measure.rows(who)} == {("failed", None)}

    def out_of_memory(*_: object) -> None:
        raise RuntimeError("not enough\nmemory")

    who = subject(path, tmp_path)
    who.model.register_forward_pre_hook(out_of_memory)
    rows = measure.rows(who)
    assert {row["reason"] for row in rows} == {"RuntimeError: not enough memory"}
    assert measure.unscored_rows(who.tokenizer, "failed", "RuntimeError: not enough memory") == rows


def test_more_tokens_than_rows(
    measure: PerplexityMeasurement, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    who = subject(make_model(vocab_size=34), tmp_path)
    with pytest.raises(
        MismatchError, match=r"more tokens than the model has rows; expected token ids below 34"
    ):
        measure.rows(who)
