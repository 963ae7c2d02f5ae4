"""What PEFT makes of our adapters of many architectures: it reads every factor and merges as we do."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

RENAMED = re.compile(r"\.experts\.|\.block_sparse_moe\.")  # what transformers stacks or renames on loading


def test_peft_reads_every_factor_as_it_is(trio: Any, recwarn: pytest.WarningsRecorder) -> None:
    inside = {key: value for key, value in trio.peft(trio.adapter).state_dict().items() if "lora_" in key}
    file = {
        key.replace(".weight", ".default.weight"): value
        for key, value in load_file(trio.adapter / "adapter_model.safetensors").items()
    }
    elsewhere = {key for key in file if trio.stacked and RENAMED.search(key)}
    assert elsewhere or not trio.stacked
    for key in file.keys() - elsewhere:
        assert torch.equal(inside[key], file[key].to(inside[key].dtype)), key
    strangers = inside.keys() - file.keys()
    assert (
        all(".mlp.experts." in key or ".mlp.gate." in key for key in strangers)
        if elsewhere
        else not strangers
    )
    assert not [warning for warning in recwarn if "missing adapter keys" in str(warning.message)]


def test_peft_merges_as_we_do(trio: Any, kit: SimpleNamespace, tmp_path: Path) -> None:
    before, ours = trio.weights("target"), trio.weights("graft")
    theirs = trio.merged_by_peft(trio.adapter, tmp_path / "merged")
    assert theirs.keys() == ours.keys() == before.keys()
    linear = kit.deltas(trio.adapter)
    assert linear.keys() == {name for name in ours if ours[name].ndim == 2 and ".layers." in name}
    assert not [name for name in linear if not kit.agree(before[name], ours[name], theirs[name])]
    assert all(torch.equal(theirs[name], before[name]) for name in theirs.keys() - linear.keys())


def test_norms_and_biases_get_the_whole_delta(trio: Any) -> None:
    base, donor, target, graft = map(trio.weights, ("base", "donor", "target", "graft"))
    dense = [name for name in graft if graft[name].ndim == 1]
    assert len(dense) >= 3
    for name in dense:
        wanted = target[name].float() + (donor[name].float() - base[name].float())
        assert torch.equal(graft[name], wanted.to(target[name].dtype)), name
        assert not torch.equal(graft[name], target[name]), name


def test_embeddings_are_the_targets_own(trio: Any) -> None:
    target, graft = trio.weights("target"), trio.weights("graft")
    embeddings = [name for name in graft if graft[name].ndim == 2 and ".layers." not in name]
    assert embeddings
    assert all(torch.equal(graft[name], target[name]) for name in embeddings)


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3"])
@pytest.mark.parametrize("folder", ["r16", "e0.9"])
def test_stacked_experts_of_any_rank(
    name: str, folder: str, trio_of: Any, kit: SimpleNamespace, tmp_path: Path
) -> None:
    """PEFT stacks the factors of all experts; a router of eight of them has no more than rank eight."""
    trio = trio_of(name)
    adapter = trio.extract(16, tmp_path, "--energy", 0.9, "--max-rank", 12).with_name(folder)
    facts = json.loads((adapter / "contextgraft.json").read_text())["modules"].values()
    assert len({module["rank"] for module in facts}) > 1
    before, ours = trio.weights("target"), trio.merge(adapter, tmp_path / "ours")
    theirs = trio.merged_by_peft(adapter, tmp_path / "theirs")
    assert not [name for name in kit.deltas(adapter) if not kit.agree(before[name], ours[name], theirs[name])]


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_embeddings_that_were_requested(name: str, kit: SimpleNamespace, tmp_path: Path) -> None:
    """Untied, which makes two more modules, and tied, which makes one."""
    kit.build(name, tmp_path)
    trio = kit.Trio(name, tmp_path)
    donor = trio.weights("donor")
    outer = {key: tensor for key, tensor in donor.items() if tensor.ndim == 2 and ".layers." not in key}
    generator = torch.Generator().manual_seed(4)
    for tensor in outer.values():
        tensor.add_((torch.randn(tensor.shape, generator=generator) * 0.05).to(tensor.dtype))
    save_file(donor, trio.path("donor") / "model.safetensors", metadata={"format": "pt"})
    adapter = trio.extract(8, tmp_path / "adapters", "--embeddings")
    before, ours = trio.weights("target"), trio.merge(adapter, tmp_path / "ours")
    theirs = trio.merged_by_peft(adapter, tmp_path / "theirs")
    assert not [key for key in outer if not kit.agree(before[key], ours[key], theirs[key])]
