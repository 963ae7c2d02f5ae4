"""The choice of device and dtype, and what one process computes in bfloat16; no GPU is needed."""

import json
from pathlib import Path

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import load_recipe
from contextgraft.errors import InputError
from contextgraft.rope import settings
from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.engine import SingleProcessEngine
from contextgraft.training.parallel.devices import check_kernel, choose_device, choose_dtype
from contextgraft.training.parallel.process_group import RankInfo, rank_device
from contextgraft.training.trainer import TrainingOptions, train

from .conftest import curve, interrupt, write_recipe

IDS = torch.randint(0, 20, (3, 24), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("requested", "available", "expected"),
    [(None, False, "cpu"), (None, True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_a_gpu_is_used_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, requested: str | None, available: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert choose_device(requested) == expected


def test_a_gpu_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"no such device.*expected --device cpu; received --device cuda"):
        choose_device("cuda")


def test_each_process_of_a_node_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert rank_device(RankInfo(3, 4, 1, 2), "cuda") == torch.device("cuda", 1)
    assert rank_device(RankInfo(3, 4, 3, 4), "cpu") == torch.device("cpu")
    with pytest.raises(InputError, match=r"more processes than GPUs.*use --device cpu"):
        rank_device(RankInfo(3, 4, 3, 4), "cuda")


def test_the_dtype_is_that_of_the_device_unless_stated() -> None:
    assert [choose_dtype(None, device) for device in ("cpu", "cuda")] == [torch.float32, torch.bfloat16]
    assert choose_dtype("float32", "cuda") == torch.float32, "for parity"
    assert choose_dtype("bfloat16", "cpu") == torch.bfloat16


def test_what_the_kernel_of_many_gpus_does_not_take_is_one_line() -> None:
    check_kernel("cuda", 128, (8, 0))
    check_kernel("cuda", 256, (9, 0))
    check_kernel("cpu", 77, None)
    for head_dim, capability, line in (
        (100, (9, 0), "head size; expected a multiple of 8 up to 256; received 100; train on one GPU"),
        (264, (9, 0), "head size"),
        (128, (7, 5), "this card; expected compute capability 8.0 or more; received 7.5; train on one GPU"),
    ):
        with pytest.raises(InputError, match=line):
            check_kernel("cuda", head_dim, capability)


def test_a_model_is_built_and_computed_on_its_device(recipe_folder: Path, tmp_path: Path) -> None:
    """One with a sliding window, which several processes refuse; meta tensors take the place of a GPU's."""
    config = MistralConfig(
        vocab_size=34, hidden_size=20, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, sliding_window=8,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(tmp_path / "window")
    model = open_model(tmp_path / "window")
    recipe = load_recipe(write_recipe(recipe_folder))
    state = SingleProcessEngine("meta").build(recipe, model, settings.read(model.config))
    assert {parameter.device.type for parameter in state.model.parameters()} == {"meta"}
    assert {p.device.type for group in state.optimiser.param_groups for p in group["params"]} == {"meta"}
    mask = torch.zeros(3, 1, 24, 24, device="meta")  # making one reads positions, which meta tensors have not
    logits = state.model.causal_lm(input_ids=IDS.to("meta"), attention_mask=mask, use_cache=False).logits
    assert (logits.device.type, logits.shape) == ("meta", (3, 24, 34))


@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_gradients_of_some_rows_at_once_add_up(base: Path, recipe_folder: Path, rows: int) -> None:
    model, recipe = open_model(base), load_recipe(write_recipe(recipe_folder))
    positions = torch.arange(24).expand(3, -1) + 100 * (torch.arange(24) > 7)
    batch = TokenBatch(IDS, torch.ones(IDS.shape), positions)
    results = []
    for engine in (SingleProcessEngine(), SingleProcessEngine(rows_at_once=rows)):
        state = engine.build(recipe, model, settings.read(model.config))
        results.append((engine.backward(state, batch, recipe), state.parameters))
    (whole, expected), (parts, gradients) = results
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert (parts.correct, parts.answers) == (whole.correct, whole.answers)
    for name, parameter in gradients.items():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-7)


def test_bfloat16_in_one_process(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses are those of float32 but for its bits, and an interrupted run ends in the same bytes."""
    config = write_recipe(recipe_folder)
    train(config, base, tmp_path / "float32")
    train(config, base, tmp_path / "whole", engine=SingleProcessEngine(dtype=torch.bfloat16))

    def stopped() -> None:
        options = TrainingOptions(checkpoint_seconds=0)
        train(config, base, tmp_path / "stopped", options, engine=SingleProcessEngine(dtype=torch.bfloat16))

    interrupt(monkeypatch, 4, stopped)
    stopped()
    pairs = zip(curve(tmp_path / "whole"), curve(tmp_path / "float32"), strict=True)
    losses = [(ours["loss"], theirs["loss"]) for ours, theirs in pairs]
    assert all(ours == pytest.approx(theirs, rel=0.02) for ours, theirs in losses)
    assert any(ours != theirs for ours, theirs in losses)
    record = json.loads((tmp_path / "whole/contextgraft.json").read_text(encoding="utf-8"))
    assert record["dtype"] == "bfloat16"
    whole, resumed = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("whole", "stopped")
    )
    assert whole == resumed
