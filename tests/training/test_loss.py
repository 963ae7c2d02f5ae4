"""The loss in pieces against the loss of all logits at once: value, every gradient, and how much exists."""

from typing import Any, NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.logit_chunks import MIN_CHUNK_LOGITS, MIN_CHUNK_TOKENS, logit_chunk_tokens
from contextgraft.training.loss import CausalLMWithLoss
from contextgraft.training.micro_batch import full_batch

VOCABULARY, LENGTH = 4200, 700  # two rows are more than a piece of 1024 tokens
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": LENGTH,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
IN_FLOAT32 = ("falcon_h1", "llama4_text")  # layers that compute so in a model of float64
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"tie_word_embeddings": False},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "phi": {},  # a bias on the logits
    "phi3": {},
    "olmo2": {},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 0.5},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.25},
    "gpt_neox": {},  # layers and output of other names
    "starcoder2": {},
    "llama4_text": {"head_dim": 8, "moe_layers": [], "intermediate_size_mlp": 24},  # states a wrong prefix
    "falcon_h1": {  # the head reads a factor of the layers
        "lm_head_multiplier": 0.5,
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
    },
}


class Whole(NamedTuple):
    """Loss of a batch, right answers, gradients by name."""

    loss: torch.Tensor
    right: int
    gradients: dict[str, torch.Tensor]


def built(name: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**COMMON, **ARCHITECTURES[name], **changes})
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.to(dtype)


def batch() -> TokenBatch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (2, LENGTH), generator=generator)
    weights = torch.tensor([0.0, 0.25, 1.0])[torch.randint(0, 3, (2, LENGTH), generator=generator)]
    return TokenBatch(ids, weights)


def at_once(model: Any, given: TokenBatch) -> Whole:
    """By definition: all logits, all losses, their weighed mean."""
    logits_BLV = model(input_ids=given.ids, use_cache=False).logits[:, :-1]
    logits_BLV = logits_BLV.to(torch.promote_types(logits_BLV.dtype, torch.float32))
    targets_BL, weights_BL = given.ids[:, 1:], given.weights[:, 1:].double()
    losses_BL = -logits_BLV.log_softmax(-1).gather(-1, targets_BL[..., None])[..., 0]
    loss = (losses_BL * weights_BL).sum() / weights_BL.sum()
    loss.backward()
    right = (logits_BLV.argmax(-1) == targets_BL)[weights_BL == 1].sum()
    return Whole(loss.detach(), int(right), gradients(model))


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_in_pieces_as_at_once(name: str) -> None:
    model, given = built(name), batch()
    expected = at_once(model, given)
    learner = CausalLMWithLoss(model)
    loss, right = learner(full_batch(given))
    (loss * 3).backward()
    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-12)
    assert int(right) == expected.right
    found = gradients(model)
    assert found.keys() == expected.gradients.keys()
    tolerance = 1e-5 if name in IN_FLOAT32 else 1e-6
    for key, gradient in expected.gradients.items():
        assert (found[key] - 3 * gradient).norm() <= tolerance * gradient.norm() + 1e-12, key


def test_some_answers_are_right_and_reported() -> None:
    model, given = built("llama"), batch()
    with torch.no_grad():
        said = model(input_ids=given.ids).logits.argmax(-1)
    ids = given.ids.clone()
    ids[0, 1:] = said[0, :-1]  # true of the first token only, for what follows sees other words
    expected = at_once(model, TokenBatch(ids, torch.ones(ids.shape)))
    _, right = CausalLMWithLoss(model)(full_batch(TokenBatch(ids, torch.ones(ids.shape))))
    assert int(right) == expected.right > 0


def test_the_loss_is_the_weighed_mean_of_what_follows() -> None:
    model = built("llama")
    ids = torch.tensor([[0, 3, 4, 5, 6], [0, 7, 8, 9, 10]])
    weights = torch.tensor([[0.0, 1.0, 0.0, 0.05, 1.0], [0.0, 0.0, 1.0, 0.0, 0.05]])
    part = full_batch(TokenBatch(ids, weights), width=8)
    loss, _ = CausalLMWithLoss(model)(part)
    logs = model(input_ids=ids).logits.log_softmax(-1).detach()
    expected = sum(
        float(-weights[row, place] * logs[row, place - 1, ids[row, place]])
        for row in range(2)
        for place in range(1, 5)
    )
    assert loss.item() == pytest.approx(expected / float(weights.sum()), rel=1e-6)
    assert int(part.answers.sum()) == 3


class Sizes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Entries of the largest tensor of logits that any operation made, and how many tokens it was of."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.ndim and tensor.shape[-1] == VOCABULARY:
                self.most = max(self.most, tensor.numel() // VOCABULARY)
        return out


@pytest.mark.parametrize("weighted", [0, 100, 2 * (LENGTH - 1)])
def test_logits_exist_of_weighted_tokens_only_and_of_one_piece_at_a_time(weighted: int) -> None:
    model, given = built("llama", tie_word_embeddings=False), batch()
    given.weights.fill_(0)
    given.weights[:, 1:] = (torch.arange(2 * (LENGTH - 1)) < weighted).view(2, -1).flip(1)
    with Sizes() as sizes:
        CausalLMWithLoss(model)(full_batch(given))[0].backward()
    assert logit_chunk_tokens(VOCABULARY) == MIN_CHUNK_TOKENS
    assert sizes.most == min(weighted, MIN_CHUNK_TOKENS)


def test_pieces_hold_entries_or_tokens() -> None:
    assert logit_chunk_tokens(2**20) == MIN_CHUNK_TOKENS
    assert logit_chunk_tokens(64) * 64 == MIN_CHUNK_LOGITS


def test_without_weights_the_gradient_is_zero_and_there() -> None:
    """Every process must hold every gradient, or the sum over processes would wait for it."""
    model = built("llama", tie_word_embeddings=False)
    given = batch()
    loss, right = CausalLMWithLoss(model)(full_batch(TokenBatch(given.ids, torch.zeros(given.ids.shape))))
    loss.backward()
    assert (loss.item(), int(right)) == (0.0, 0)
    assert model.lm_head.weight.grad.abs().max() == 0


def test_frozen_embeddings_get_no_gradient() -> None:
    model = built("llama", tie_word_embeddings=False)
    model.lm_head.weight.requires_grad_(False)
    CausalLMWithLoss(model)(full_batch(batch()))[0].backward()
    assert model.lm_head.weight.grad is None
    assert model.model.layers[0].mlp.up_proj.weight.grad.norm() > 0


def test_pieces_add_up_in_float32() -> None:
    """In bfloat16 the output's gradient of six pieces is as near to float64's as that of one."""
    given = TokenBatch(batch().ids.repeat(4, 1), batch().weights.repeat(4, 1))
    rough, exact = (
        built("llama", dtype, tie_word_embeddings=False) for dtype in (torch.bfloat16, torch.float64)
    )
    exact.load_state_dict(rough.state_dict())
    expected = at_once(exact, given).gradients["lm_head.weight"]
    once = at_once(rough, given).gradients["lm_head.weight"]
    CausalLMWithLoss(rough)(full_batch(given))[0].backward()
    pieces = gradients(rough)["lm_head.weight"]
    errors = [float((found.double() - expected).norm() / expected.norm()) for found in (pieces, once)]
    assert errors[0] < 1.1 * errors[1] < 0.1
