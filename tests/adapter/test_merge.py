"""Merging: W + scale * B @ A rounded once, all else kept, RoPE repaired, mismatches refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import in_turns, merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.adapter.merge.target import unknown_names
from contextgraft.checkpoint.model_folder import open_model, open_tensors
from contextgraft.errors import CheckpointError, ContextgraftError, InputError, MismatchError, OutputError


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor for file in folder.glob("model*.safetensors") for name, tensor in load_file(file).items()
    }


@pytest.mark.parametrize("scale", [1.0, 0.5, -1.0])
def test_weights_are_the_direct_sum_rounded_once(world: Any, tmp_path: Path, scale: float) -> None:
    manifest = merge(
        plan_merge([ScaledAdapter(open_adapter(world.adapters / "r8"), scale)], world.target),
        tmp_path / "graft",
    )
    factors = load_file(world.adapters / "r8" / "adapter_model.safetensors")
    dense = load_file(world.adapters / "r8" / "contextgraft.safetensors")
    for name, new in tensors(tmp_path / "graft").items():
        old = world.weights["target"][name]
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        if f"{key}A.weight" in factors:
            delta = scale * (factors[f"{key}B.weight"].double() @ factors[f"{key}A.weight"].double())
        elif name in dense:
            delta = scale * dense[name].double()
        else:
            assert torch.equal(new, old)
            continue
        exact = old.double() + delta
        assert ((new.double() - exact).abs() <= exact.abs() * 2.0**-8 + 1e-6).all()  # half a unit of bfloat16
        record = manifest["tensors"][name]
        assert record["delta_norm"] == pytest.approx(float(delta.norm()), rel=1e-4)
        assert record["survived_norm"] == pytest.approx(float((new.double() - old.double()).norm()), rel=1e-6)


def test_layout_and_other_files_are_kept(world: Any, toy: SimpleNamespace, tmp_path: Path) -> None:
    target = tmp_path / "target"
    for name, data in toy.contents(world.target).items():
        target.mkdir(exist_ok=True)
        (target / name).write_bytes(data)
    for name in ("training_args.bin", "model.gguf", "original/consolidated.00.pth", "chat/template.jinja"):
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text(name)
    (target / "contextgraft.json").write_text('{"format": 2, "kind": "source", "name": "fine"}')
    manifest = merge(
        plan_merge([ScaledAdapter(open_adapter(world.adapters / "r4"))], target), tmp_path / "graft"
    )
    before, after = toy.contents(target), toy.contents(tmp_path / "graft")
    left_out = ["model.gguf", "original/consolidated.00.pth", "training_args.bin"]
    assert manifest["left_out"] == left_out
    assert manifest["target"]["name"] == "fine"
    assert set(after) == set(before) - set(left_out) | {"README.md"}
    for name in ("chat/template.jinja", "tokenizer.json", "model.safetensors.index.json"):
        assert after[name] == before[name]
    for shard in open_model(target).shards:
        begin = open_tensors(target / shard).data_begin
        assert before[shard][:begin] == after[shard][:begin]


def test_rope_and_lengths_are_repaired(world: Any, tmp_path: Path) -> None:
    manifest = merge(
        plan_merge([ScaledAdapter(open_adapter(world.adapters / "r4"))], world.target), tmp_path / "graft"
    )
    config = json.loads((tmp_path / "graft" / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 4e4
    assert config["max_position_embeddings"] == 1024
    assert config["vocab_size"] == 56
    tokenizer = json.loads((tmp_path / "graft" / "tokenizer_config.json").read_text())
    assert tokenizer == {"model_max_length": 1024, "eos_token": "</s>"}
    assert manifest["tokenizer"] == {"model_max_length": [128, 1024]}
    assert (manifest["rope"]["before"]["theta"], manifest["rope"]["after"]["theta"]) == (1e4, 4e4)


def test_scale_zero_changes_theta_only(world: Any, toy: SimpleNamespace, tmp_path: Path) -> None:
    manifest = merge(
        plan_merge([ScaledAdapter(open_adapter(world.adapters / "r4"), 0.0)], world.target),
        tmp_path / "graft",
    )
    for file in world.target.glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "graft" / file.name).read_bytes()
    assert json.loads((tmp_path / "graft" / "config.json").read_text())["rope_theta"] == 4e4
    assert not any(record["applied"] for record in manifest["tensors"].values())
    assert not any(record["survived_norm"] for record in manifest["tensors"].values())


def test_shards_and_threads_do_not_matter(build: Callable[..., Any], world: Any, tmp_path: Path) -> None:
    one, many = build(tmp_path / "one"), build(tmp_path / "many", shards=20)
    adapter = world.adapters / "r8"
    first = merge(plan_merge([ScaledAdapter(open_adapter(adapter))], one.target), tmp_path / "a")
    second = merge(plan_merge([ScaledAdapter(open_adapter(adapter))], many.target), tmp_path / "b", threads=3)
    assert first["tensors"] == second["tensors"]
    assert {name: value.tolist() for name, value in tensors(tmp_path / "a").items()} == {
        name: value.tolist() for name, value in tensors(tmp_path / "b").items()
    }


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_begin_with_tensors_of_different_files(world: Any, threads: int) -> None:
    plan = plan_merge([ScaledAdapter(open_adapter(world.adapters / "r4"))], world.target)
    tensors, names = plan.layout.tensors, list(in_turns(plan, threads))
    assert sorted(names) == sorted(tensors)
    files = [tensors[name].shard for name in names]
    assert len(set(files[:threads])) == min(threads, len(set(files)))
    for file in set(files):
        begins = [tensors[name].begin for name in names if tensors[name].shard == file]
        assert begins == sorted(begins)


def test_another_rope_than_the_base_is_said(world: Any, toy: SimpleNamespace, tmp_path: Path) -> None:
    target = toy.write(tmp_path / "t", world.weights["target"], toy.config(vocab_size=56, rope_theta=7e4))
    assert (
        "theta 70000" in plan_merge([ScaledAdapter(open_adapter(world.adapters / "r4"))], target).warnings[0]
    )
    assert plan_merge([ScaledAdapter(open_adapter(world.adapters / "r4"))], world.target).warnings == ()


Q = "model.layers.0.self_attn.q_proj.weight"
TARGETS: dict[str, tuple[dict[str, Any], Callable[[dict[str, torch.Tensor]], object], str]] = {
    "layers": ({"num_hidden_layers": 3}, lambda t: None, "num_hidden_layers 2; received num_hidden_layers 3"),
    "architecture": ({"model_type": "mistral"}, lambda t: None, "expected model_type llama"),
    "shape": ({}, lambda t: t.update({Q: torch.ones(64, 60)}), r"expected shape \[64, 64\].*\[64, 60\]"),
    "missing": ({}, lambda t: t.pop(Q), "no such tensor"),
    "quantised": ({}, lambda t: t.update({Q: torch.ones(64, 64, dtype=torch.int8)}), "received I8"),
    "vocabulary": ({"vocab_size": 51}, lambda t: None, "disagree about the vocabulary; expected 51 rows"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TARGETS)
def test_targets_that_do_not_fit_are_refused(
    world: Any, toy: SimpleNamespace, tmp_path: Path, kind: str
) -> None:
    changes, spoil, words = TARGETS[kind]
    weights = dict(world.weights["target"])
    spoil(weights)
    target = toy.write(tmp_path / "t", weights, toy.config(**{"vocab_size": 56, **changes}))
    with pytest.raises(MismatchError, match=words) as caught:
        plan_merge([ScaledAdapter(open_adapter(world.adapters / "r4"))], target)
    assert str(target) in str(caught.value)
    assert kind == "vocabulary" or str(world.adapters / "r4") in str(caught.value)


def test_nan_in_the_target_leaves_nothing(world: Any, toy: SimpleNamespace, tmp_path: Path) -> None:
    weights = {name: tensor.clone() for name, tensor in world.weights["target"].items()}
    weights[Q][1, 1] = math.nan
    target = toy.write(tmp_path / "t", weights, toy.config(vocab_size=56))
    with pytest.raises(CheckpointError, match="not finite"):
        merge(plan_merge([ScaledAdapter(open_adapter(world.adapters / "r4"))], target), tmp_path / "graft")
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_scale_beyond_all_numbers_leaves_nothing(world: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not finite"):
        merge(
            plan_merge([ScaledAdapter(open_adapter(world.adapters / "r4"), 1e38)], world.target),
            tmp_path / "graft",
        )
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_kept(world: Any, tmp_path: Path) -> None:
    (tmp_path / "graft").mkdir()
    (tmp_path / "graft" / "mine").touch()
    with pytest.raises(OutputError, match="already exists"):
        merge(
            plan_merge([ScaledAdapter(open_adapter(world.adapters / "r4"))], world.target), tmp_path / "graft"
        )
    assert [path.name for path in tmp_path.rglob("*")] == ["graft", "mine"]


def test_a_graft_is_replaced_on_request_even_after_an_interrupt(world: Any, tmp_path: Path) -> None:
    out = tmp_path / "graft"
    old, new = (
        plan_merge([ScaledAdapter(open_adapter(world.adapters / "r4"), scale)], world.target)
        for scale in (1, 2)
    )
    merge(old, out)
    before = (out / "contextgraft.json").read_bytes()

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(new, out, replace=True, advance=interrupt)
    assert (out / "contextgraft.json").read_bytes() == before
    merge(new, out, replace=True)
    merge(new, tmp_path / "fresh")
    names = [path.name for path in (tmp_path / "fresh").iterdir()]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert all((out / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes() for name in names)
    assert not list(tmp_path.glob(".*"))


KEY = f"base_model.model.{Q.removesuffix('.weight')}.lora_"
ADAPTERS: dict[str, tuple[Callable[[Path], object], type[ContextgraftError], str]] = {
    "no sidecar": (lambda a: (a / "contextgraft.json").unlink(), CheckpointError, "found without"),
    "no config": (lambda a: (a / "adapter_config.json").unlink(), InputError, "is not a PEFT adapter"),
    "other kind": (lambda a: edit(a / "contextgraft.json", kind="graft"), CheckpointError, "another kind"),
    "no rope": (lambda a: edit(a / "contextgraft.json", rope=None), CheckpointError, "lacks rope"),
    "half a rope": (lambda a: edit(a / "contextgraft.json", rope={}), CheckpointError, "malformed RoPE"),
    "dora": (lambda a: edit(a / "adapter_config.json", use_dora=True), CheckpointError, "use_dora"),
    "replaces": (lambda a: edit(a / "adapter_config.json", modules_to_save=["norm"]), MismatchError, "saves"),
    "no weights": (lambda a: (a / "adapter_model.safetensors").unlink(), CheckpointError, "cannot be read"),
    "half a pair": (lambda a: refit(a, {f"{KEY}B.weight": None}), CheckpointError, "do not fit each other"),
    "other ranks": (lambda a: refit(a, {f"{KEY}B.weight": torch.ones(64, 3)}), CheckpointError, "do not fit"),
    "zero rank": (
        lambda a: refit(a, {f"{KEY}A.weight": torch.ones(0, 64), f"{KEY}B.weight": torch.ones(64, 0)}),
        CheckpointError,
        "ZeRO-3",
    ),
    "more": (lambda a: refit(a, {"lm_head.weight": torch.ones(2)}), MismatchError, "would overwrite lm_head"),
    "alpha": (lambda a: edit(a / "adapter_config.json", lora_alpha="16"), CheckpointError, "lora_alpha"),
    "pissa": (lambda a: edit(a / "adapter_config.json", init_lora_weights="pissa"), CheckpointError, "pissa"),
    "no lora": (lambda a: edit(a / "adapter_config.json", peft_type="IA3"), CheckpointError, "another kind"),
    "rank of config": (lambda a: edit(a / "adapter_config.json", r=5), CheckpointError, "another rank"),
}  # fmt: skip


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refit(adapter: Path, changes: dict[str, torch.Tensor | None]) -> None:
    path = adapter / "adapter_model.safetensors"
    merged = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in merged.items() if tensor is not None}, path)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_malformed_adapters_are_refused(world: Any, toy: SimpleNamespace, tmp_path: Path, kind: str) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name, data in toy.contents(world.adapters / "r4").items():
        (adapter / name).write_bytes(data)
    spoil, error, words = ADAPTERS[kind]
    spoil(adapter)
    with pytest.raises(error, match=words):
        plan_merge([ScaledAdapter(open_adapter(adapter))], world.target)


@pytest.mark.parametrize(("front", "known"), [("", True), ("model.", True), ("language_model.", False)])
def test_names_that_the_class_does_not_load_are_a_warning(
    front: str, known: bool, world: Any, toy: SimpleNamespace, tmp_path: Path
) -> None:
    """Language models cut out of others have such names; transformers loads none of the weights."""
    weights = {f"{front}{name}": tensor for name, tensor in world.weights["base"].items()}
    target = toy.write(tmp_path / "target", weights, toy.config())
    plan = plan_merge([ScaledAdapter(open_adapter(world.adapters / "r4"))], target)
    said = [line for line in plan.warnings if "transformers loads no tensor named" in line]
    assert len(said) == (0 if known else 1)
    if said:
        opened = open_model(target)
        one, two = (list(unknown_names(opened, sorted(weights)[:number])) for number in (1, 2))
        assert "(llama): the target does not load" in one[0]
        assert "(llama), nor 1 more: the target does not load" in two[0]
    loaded = AutoModelForCausalLM.from_pretrained(target, dtype=torch.bfloat16).state_dict()
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(loaded[name], world.weights["base"][name]) == known
