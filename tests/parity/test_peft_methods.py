"""Our adapters and grafts as users use them: other ways of PEFT to load, swap and combine; lm-eval."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import PeftModel
from peft.utils.hotswap import hotswap_adapter, prepare_model_for_compiled_hotswap
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def trio(trio_of: Callable[[str], Any]) -> Any:
    return trio_of("llama")


@pytest.fixture(scope="module")
def smaller(trio: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of rank 2 of the same donor."""
    folder: Path = trio.extract(2, tmp_path_factory.mktemp("smaller"))
    return folder


def target(trio: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(trio.path("target"), dtype=torch.float32).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(IDS).logits
    return result


def test_load_adapter_of_transformers_is_pefts_model(trio: Any) -> None:
    model = target(trio)
    plain = logits(model)
    model.load_adapter(str(trio.adapter))
    assert torch.equal(logits(model), logits(PeftModel.from_pretrained(target(trio), trio.adapter)))
    assert not torch.equal(logits(model), plain)


def test_a_weighted_sum_of_two_ranks_is_the_sum_of_their_deltas(trio: Any, smaller: Path, kit: Any) -> None:
    model = PeftModel.from_pretrained(target(trio), trio.adapter, adapter_name="r8")
    model.load_adapter(smaller, adapter_name="r2")
    before = {key: value.clone() for key, value in target(trio).state_dict().items()}
    model.add_weighted_adapter(["r8", "r2"], [0.75, 0.25], "sum", combination_type="cat")
    model.set_adapter("sum")
    after = model.merge_and_unload(adapter_names=["sum"]).state_dict()
    first, second = kit.deltas(trio.adapter), kit.deltas(smaller)
    assert first
    for name, delta in first.items():
        expected = before[name] + 0.75 * delta + 0.25 * second[name]
        torch.testing.assert_close(after[name], expected, rtol=1e-4, atol=1e-5)


def test_an_adapter_is_swapped_for_one_of_another_rank(trio: Any, smaller: Path) -> None:
    model = PeftModel.from_pretrained(target(trio), smaller)
    prepare_model_for_compiled_hotswap(model, target_rank=8)
    hotswap_adapter(model, str(trio.adapter), adapter_name="default")
    expected = logits(PeftModel.from_pretrained(target(trio), trio.adapter))
    torch.testing.assert_close(logits(model), expected)


def test_lm_eval_scores_a_graft_and_an_adapter(trio: Any) -> None:
    """Log-likelihoods of a continuation, by lm-evaluation-harness and by the model itself."""
    words = models.WordLevel({f"w{index}": index for index in range(64)}, unk_token="w0")
    backend = Tokenizer(words)
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w2", pad_token="w0")
    request = Instance("loglikelihood", {}, ("w5 w6 w7", " w8 w9"), 0)
    graft = AutoModelForCausalLM.from_pretrained(trio.path("graft"), dtype=torch.float32).eval()
    adapted = PeftModel.from_pretrained(target(trio), trio.adapter).eval()
    options: dict[str, Any] = {"tokenizer": tokenizer, "device": "cpu", "dtype": "float32", "batch_size": 1}
    by_name = (
        HFLM(str(trio.path("graft")), **options),
        HFLM(str(trio.path("target")), peft=str(trio.adapter), **options),
    )
    for model, harness in zip((graft, adapted), by_name, strict=True):
        ((received, _),) = harness.loglikelihood([request], disable_tqdm=True)
        with torch.no_grad():
            rows = model(torch.tensor([[5, 6, 7, 8]])).logits[0].log_softmax(-1)
        assert received == pytest.approx((rows[2, 8] + rows[3, 9]).item(), abs=1e-4)
