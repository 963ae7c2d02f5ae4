"""The controls of `evaluate TARGET --adapter ... --control NAME`, against merges, PEFT and transformers."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.evaluation.moved_model import moved
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from contextgraft.adapter.compute.arrays import Floats
from contextgraft.adapter.compute.random_directions import turned_by_expert, turned_columns
from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.in_memory.controls import CONTROLS
from contextgraft.adapter.in_memory.controls.base import ControlInputs, FolderDigests
from contextgraft.adapter.in_memory.controls.random import random_adapter
from contextgraft.adapter.lora.adapter import Adapter, open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import MergePlan
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.config.control_names import ControlName
from contextgraft.errors import InputError, MismatchError
from contextgraft.formats.sidecar import identity

OWN_THETA, DONOR_THETA, OWN, LONG = 10000.0, 4e5, 64, 512


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> ControlInputs:
    """A target with 64 positions, and adapters of ranks 2 and 4 of a donor with 512."""
    root = tmp_path_factory.mktemp("controls")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=OWN, rope_parameters={"rope_type": "default", "rope_theta": OWN_THETA},
    )  # fmt: skip
    base = root / "base"
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(base)
    donor = moved(base, root / "donor", 1, max_position_embeddings=LONG, rope_parameters={
        "rope_type": "default", "rope_theta": DONOR_THETA})  # fmt: skip
    target = moved(base, root / "target", 2)
    extract(open_pair(base, donor), [RankSpec(2), RankSpec(4)], root / "adapters")
    return ControlInputs(target, tuple(open_adapter(root / "adapters" / name) for name in ("r2", "r4")))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def plan(name: ControlName, inputs: ControlInputs) -> MergePlan:
    return CONTROLS[name](inputs)


@pytest.mark.parametrize("name", ["theta_only", "yarn", "dynamic_ntk"])
def test_controls_by_the_config_change_no_weight(
    name: ControlName, inputs: ControlInputs, tmp_path: Path
) -> None:
    merge(plan(name, inputs), tmp_path / "out")
    before, after = weights(inputs.target), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(("name", "kind"), [("yarn", "yarn"), ("dynamic_ntk", "dynamic")])
def test_transformers_scales_the_targets_own_rope_to_the_donors_length(
    name: ControlName, kind: str, inputs: ControlInputs, tmp_path: Path
) -> None:
    merge(plan(name, inputs), tmp_path / "out")
    rope = AutoConfig.from_pretrained(tmp_path / "out").rope_parameters
    assert (rope["rope_type"], rope["rope_theta"], rope["factor"]) == (kind, OWN_THETA, LONG / OWN)
    frequencies = AutoModelForCausalLM.from_pretrained(tmp_path / "out").model.rotary_emb.inv_freq
    assert frequencies[0] == 1
    original = AutoModelForCausalLM.from_pretrained(inputs.target).model.rotary_emb.inv_freq
    assert torch.equal(frequencies, original) == (kind == "dynamic")  # dynamic RoPE changes with the prompt


def test_the_donors_length_counts_as_transformers_and_vllm_derive_it(inputs: ControlInputs) -> None:
    for name in ("theta_only", "yarn", "dynamic_ntk", "random", "old_theta"):
        assert plan(name, inputs).rope.context == LONG, name


def test_the_old_theta_goes_with_the_weights_of_the_graft_of_the_largest_rank(
    inputs: ControlInputs, tmp_path: Path
) -> None:
    control = plan("old_theta", inputs)
    assert (control.rope.theta, control.rope.max_positions) == (OWN_THETA, LONG)
    assert [scaled.adapter.rank for scaled in control.adapters] == [4]
    merge(control, tmp_path / "out")
    PEFT = pytest.importorskip("peft").PeftModel
    reference = PEFT.from_pretrained(
        AutoModelForCausalLM.from_pretrained(inputs.target, dtype=torch.float32), inputs.largest.path
    ).merge_and_unload()
    ours = weights(tmp_path / "out")
    projections = {n: v for n, v in reference.state_dict().items() if n.endswith("proj.weight")}
    assert projections
    for name, tensor in projections.items():
        assert torch.allclose(ours[name].float(), tensor, rtol=2**-7, atol=1e-6), name


def matrices(adapter: Adapter) -> Iterator[tuple[str, Floats]]:
    for name, entry in adapter.entries.items():
        delta = entry.dense(lambda key: adapter.read(key).float())
        yield name, delta.reshape(len(delta), -1).numpy()


def test_random_directions_keep_every_singular_value(inputs: ControlInputs) -> None:
    original = dict(matrices(inputs.largest))
    turned = dict(matrices(random_adapter(inputs.largest)))
    assert original.keys() == turned.keys()
    for name, delta in original.items():
        expected = np.linalg.svd(delta, compute_uv=False)
        assert np.allclose(np.linalg.svd(turned[name], compute_uv=False), expected, atol=1e-5), name
        cosine = np.vdot(delta, turned[name]) / np.linalg.norm(delta) ** 2
        assert abs(cosine) < 0.9, name
    cosines = [np.vdot(d, turned[n]) / np.linalg.norm(d) ** 2 for n, d in original.items() if d.shape[1] > 1]
    assert abs(np.mean(cosines)) < 0.2


def test_the_same_adapter_has_the_same_random_control(inputs: ControlInputs) -> None:
    first, second = random_adapter(inputs.largest), random_adapter(open_adapter(inputs.largest.path))
    assert first.digest == second.digest != inputs.largest.digest
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(matrices(first), matrices(second), strict=True))
    key = next(iter(first.factors.values())).key_A
    assert np.array_equal(first.read_floats(key), first.read(key).numpy())


def test_random_directions_of_stacked_and_of_narrow_factors() -> None:
    generator = np.random.default_rng(1)
    for shape in ((12, 3), (2, 3), (3, 3)):
        columns = generator.standard_normal(shape).astype(np.float32)
        turned = turned_columns(columns, generator)
        assert turned.shape == shape
        assert np.allclose(turned.T @ turned, columns.T @ columns, atol=1e-5)
    stacked = generator.standard_normal((12, 6)).astype(np.float32)
    own = [slice(expert, None, 2) for expert in range(2)]
    turned = turned_by_expert(stacked, own, generator)
    for chosen in own:
        expected = stacked[:, chosen].T @ stacked[:, chosen]
        assert np.allclose(turned[:, chosen].T @ turned[:, chosen], expected, atol=1e-5)


def test_a_target_that_has_the_length_has_no_control_by_the_config(
    inputs: ControlInputs, tmp_path: Path
) -> None:
    own = json.loads((inputs.target / "config.json").read_text())
    long = tmp_path / "long"
    long.mkdir()
    for file in inputs.target.iterdir():
        (long / file.name).write_bytes(file.read_bytes())
    (long / "config.json").write_text(json.dumps({**own, "max_position_embeddings": LONG}))
    with pytest.raises(MismatchError, match="has the donor's length already"):
        plan("yarn", replace(inputs, target=long))
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": OWN_THETA}
    (long / "config.json").write_text(json.dumps({**own, "rope_parameters": rope}))
    with pytest.raises(MismatchError, match="has scaled RoPE itself"):
        plan("dynamic_ntk", replace(inputs, target=long))


def test_an_adapter_without_a_record_of_the_length_has_none(inputs: ControlInputs) -> None:
    strangers = tuple(replace(adapter, sidecar=None) for adapter in inputs.adapters)
    with pytest.raises(InputError, match="no record of the donor's length"):
        plan("yarn", replace(inputs, adapters=strangers))


THETA = {"rope_type": "default", "rope_theta": DONOR_THETA}


@pytest.mark.parametrize(
    ("short", "expected"),
    [
        ("base", "is the base of the adapter"),
        ("donor", "is the donor of the adapter"),
        ("target", "expected theta 400000, type default; received theta 10000, type default"),
    ],
)
def test_a_short_donor_is_another_model_with_the_donors_theta(
    short: str, expected: str, inputs: ControlInputs
) -> None:
    folder = inputs.target.parent / short
    with pytest.raises(MismatchError, match=expected):
        plan("short_donor", replace(full_rank(inputs), short_donor=folder))


def test_the_type_of_rope_of_a_short_donor_is_the_donors(inputs: ControlInputs, tmp_path: Path) -> None:
    linear = {**THETA, "rope_type": "linear", "factor": 8.0}
    short = moved(inputs.target.parent / "base", tmp_path / "short", 3, rope_parameters=linear)
    with pytest.raises(MismatchError, match="received theta 400000, type linear"):
        plan("short_donor", replace(full_rank(inputs), short_donor=short))


def test_models_of_full_rank_controls_are_hashed_once_until_they_change(
    inputs: ControlInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def counted(model: ModelFolder) -> dict[str, Any]:
        hashed.append(model.path)
        return identity(model)

    monkeypatch.setattr("contextgraft.adapter.in_memory.controls.base.identity", counted)
    short = moved(inputs.target.parent / "base", tmp_path / "short", 3, rope_parameters=THETA)
    given = replace(full_rank(inputs), short_donor=short, digests=FolderDigests())
    for name in ("whole_delta", "short_donor", "whole_delta", "short_donor"):
        plan(name, given)
    assert sorted(hashed) == sorted([*given.donors, inputs.target.parent / "base", short])
    (short / "model.safetensors").touch()
    plan("short_donor", given)
    assert hashed[-1] == short


def full_rank(inputs: ControlInputs) -> ControlInputs:
    root = inputs.target.parent
    return replace(inputs, base=root / "base", donors=(root / "target", root / "donor"))


def test_the_whole_delta_is_added_without_factors(inputs: ControlInputs, tmp_path: Path) -> None:
    control = plan("whole_delta", full_rank(inputs))
    assert (control.rope.theta, control.rope.max_positions) == (DONOR_THETA, LONG)
    merge(control, tmp_path / "out")
    ours = weights(tmp_path / "out")
    base, donor, target = (weights(inputs.target.parent / name) for name in ("base", "donor", "target"))
    for name, tensor in target.items():
        delta = donor[name].float() - base[name].float()
        carried = "embed_tokens" not in name and "lm_head" not in name
        expected = (tensor.float() + delta).to(torch.bfloat16) if carried else tensor
        assert torch.equal(ours[name], expected), name
    adapter = control.adapters[0].adapter
    assert (adapter.rank, adapter.origin) == (0, inputs.largest.origin)
    assert adapter.digest not in {own.digest for own in inputs.adapters}
    assert plan("whole_delta", full_rank(inputs)).adapters[0].adapter.digest == adapter.digest


def test_a_short_donor_gives_its_weights_and_the_first_donor_the_settings(
    inputs: ControlInputs, tmp_path: Path
) -> None:
    root = inputs.target.parent
    short = moved(root / "base", tmp_path / "short", 3, rope_parameters=THETA)
    control = plan("short_donor", replace(full_rank(inputs), short_donor=short))
    assert (control.rope.theta, control.rope.max_positions) == (DONOR_THETA, LONG)
    merge(control, tmp_path / "out")
    name = "model.layers.0.mlp.up_proj.weight"
    expected = weights(inputs.target)[name].float() + weights(short)[name].float()
    expected -= weights(root / "base")[name].float()
    assert torch.allclose(weights(tmp_path / "out")[name].float(), expected, rtol=2**-7, atol=1e-6)
    assert (
        control.adapters[0].adapter.digest
        != plan("whole_delta", full_rank(inputs)).adapters[0].adapter.digest
    )


def test_controls_of_full_rank_check_base_and_donor(inputs: ControlInputs) -> None:
    root = inputs.target.parent
    with pytest.raises(InputError, match="pass its folder with --base"):
        plan("whole_delta", replace(full_rank(inputs), base=None))
    with pytest.raises(MismatchError, match="is not the base of the adapter"):
        plan("whole_delta", replace(full_rank(inputs), base=root / "target"))
    with pytest.raises(InputError, match="from a donor that was not given"):
        plan("whole_delta", replace(full_rank(inputs), donors=(root / "target",)))
    with pytest.raises(InputError, match="pass its folder with --short-donor"):
        plan("short_donor", full_rank(inputs))
