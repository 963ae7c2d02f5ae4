"""Weights that LoRA does not train are kept in bfloat16 where a run computes in it, and change no number."""

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import load_recipe
from contextgraft.rope import settings
from contextgraft.training.data.batches import TokenBatch
from contextgraft.training.engine import SingleProcessEngine, TrainingEngine
from contextgraft.training.parallel import engine as parallel_engine
from contextgraft.training.parallel.engine import DistributedEngine
from contextgraft.training.parallel.options import ParallelOptions
from contextgraft.training.parallel.process_group import RankInfo, process_group
from contextgraft.training.state import TrainState
from contextgraft.training.trainer import train

from .conftest import write_recipe

RUN: dict[str, Any] = {
    "stages": [{"length": 32, "steps": 5, "tokens": 64}],
    "theta": "keep",
    "replay": {},
    "data": [{"kind": "repeat", "first": 2}],
    "lora": {"rank": 2, "alpha": 3},
    "trainable": ["linear"],
    "optimiser": {"learning_rate": 0.02, "warmup": 2},
}


@contextmanager
def one_rank(base: Path, dtype: torch.dtype) -> Iterator[DistributedEngine]:
    info = RankInfo(0, 1, 0, 1)
    try:
        with process_group(info, timedelta(minutes=5)) as device:
            shape = json.loads((base / "config.json").read_text(encoding="utf-8"))
            yield DistributedEngine(info, device, ParallelOptions(dtype=dtype), shape)
    finally:
        if dist.is_initialized():  # after an error
            dist.destroy_process_group()


def built(engine: TrainingEngine, recipe: Path, base: Path) -> TrainState:
    model = open_model(base)
    return engine.build(load_recipe(recipe), model, settings.read(model.config))


def dtypes(state: TrainState) -> dict[str, torch.dtype]:
    """Of every parameter; no tensor in memory has the shape of the first matrix in another dtype."""
    found = {name: value.dtype for name, value in state.model.causal_lm.named_parameters()}
    (name,) = (name for name in found if "layers.0.mlp.up_proj" in name and "base_layer" in name)
    gc.collect()  # models of other cases
    alive = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
    same = [each.dtype for each in alive if each.shape == (24, 16) and not each.is_meta]
    assert set(same) == {found[name]}
    return found


def test_one_process_keeps_what_autocast_would_cast(base: Path, sharded: Path, recipe_folder: Path) -> None:
    """Norms and embeddings are computed with in float32, so is an output layer that is tied to them."""
    recipe, engine = write_recipe(recipe_folder, **RUN), SingleProcessEngine(dtype=torch.bfloat16)
    for folder, head in ((sharded, torch.bfloat16), (base, torch.float32)):
        found = dtypes(built(engine, recipe, folder))
        assert found.pop("lm_head.weight", torch.float32) is head
        for name, dtype in found.items():
            assert dtype is (torch.bfloat16 if "base_layer" in name else torch.float32), name
    assert set(dtypes(built(SingleProcessEngine(), recipe, base)).values()) == {torch.float32}


def test_the_engine_of_many_keeps_all_of_them(sharded: Path, recipe_folder: Path) -> None:
    for groups in (["linear"], ["linear", "norms"]):
        recipe = write_recipe(recipe_folder, **RUN | {"trainable": groups})
        for dtype in (torch.bfloat16, torch.float32):
            with one_rank(sharded, dtype) as engine:
                state = built(engine, recipe, sharded)
                for name, found in dtypes(state).items():
                    trained = name in state.parameters
                    assert found is (torch.float32 if trained else dtype), name
                    assert trained == ("lora" in name or ("norm" in name and "norms" in groups))


def test_the_engine_of_many_has_the_gradients_of_weights_in_float32(
    sharded: Path, recipe_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against shards in float32, which FSDP itself casts when it gathers them: the same bytes."""
    recipe = write_recipe(recipe_folder, **RUN | {"trainable": ["linear", "norms"]})
    ids = torch.randint(0, 20, (3, 32), generator=torch.Generator().manual_seed(1))
    results = []
    for cast in (True, False):
        with monkeypatch.context() as patch, one_rank(sharded, torch.bfloat16) as engine:
            if not cast:
                patch.setattr(parallel_engine, "cast_frozen", lambda *_: None)
            state = built(engine, recipe, sharded)
            draw_second_factors(state)
            engine.backward(state, TokenBatch(ids, torch.ones(ids.shape)), load_recipe(recipe))
            gradients = [(name, value.grad) for name, value in state.parameters.items()]
            results.append(
                {name: each.full_tensor() for name, each in gradients if isinstance(each, DTensor)}
            )
            assert results[-1].keys() == state.parameters.keys()
    for name, value in results[0].items():
        assert value.abs().max() > 0
        assert torch.equal(value, results[1][name]), name


def draw_second_factors(state: TrainState) -> None:
    """LoRA's second factors begin as 0, with which the first have no gradient."""
    with torch.no_grad():
        for name, parameter in state.parameters.items():
            if ".lora_B." in name:
                parameter.fill_(0.1)


def test_a_run_ends_in_the_adapter_that_peft_trains_on_weights_in_float32(
    sharded: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT at run time, autocast and AdamW: a hundred-thousandth of the change, by norm, is the bound."""
    engine = SingleProcessEngine(dtype=torch.bfloat16)
    seen: list[tuple[TokenBatch, float]] = []
    first: dict[str, torch.Tensor] = {}
    backward: Callable[..., Any] = engine.backward

    def watched(state: TrainState, batch: TokenBatch, *rest: Any) -> Any:
        if not seen:
            first.update({name: value.detach().clone() for name, value in state.parameters.items()})
        seen.append((batch, state.optimiser.param_groups[0]["lr"]))
        return backward(state, batch, *rest)

    monkeypatch.setattr(engine, "backward", watched)
    train(write_recipe(recipe_folder, **RUN), sharded, tmp_path / "out", engine=engine)
    model = AutoModelForCausalLM.from_pretrained(sharded, dtype=torch.float32)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    peft = get_peft_model(model, LoraConfig(r=2, lora_alpha=3, target_modules=targets))
    named = {name.removeprefix("base_model.model."): value for name, value in peft.named_parameters()}
    trained = {name: named[name] for name in first}
    assert len(trained) == 2 * 2 * len(targets)
    with torch.no_grad():
        for name, value in trained.items():
            value.copy_(first[name])
    optimiser = torch.optim.AdamW(trained.values(), betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    for batch, rate in seen:
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = peft(batch.ids).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits.mT, batch.ids[:, 1:], reduction="none")
        weights = batch.weights[:, 1:]
        torch.autograd.backward((losses * weights).sum() / weights.sum())
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimiser.step()
    before = AutoModelForCausalLM.from_pretrained(sharded, dtype=torch.float32).state_dict()
    reference = peft.merge_and_unload().state_dict()
    for name, ours in load_file(tmp_path / "out" / "model.safetensors").items():
        change = reference[name] - before[name]
        assert (change.norm() > 0) == ("proj" in name), name
        assert (ours - reference[name]).norm() <= 1e-5 * change.norm(), name
