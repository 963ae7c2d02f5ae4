"""Extraction by mergekit of the same pairs: same modules, same optimum, adapters that open and merge."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from mergekit.scripts.extract_lora import main as extractor
from safetensors.torch import load_file

RANK = 8
SPARSE = {"mixtral": re.compile(r"\.block_sparse_moe\."), "qwen3_moe": re.compile(r"\.mlp\.")}
LAYERS_ONLY = ("--skip-undecomposable", "-e", "embed", "-e", "lm_head")  # else whole copies go along
BIASED = ("gpt_neox", "starcoder2")  # every linear layer has a bias, as PEFT's `lora_bias` demands


def by_mergekit(trio: Any, out: Path, *options: str) -> Path:
    """The adapter of mergekit; whole paths, for it asks the hub about `base` or `models/base`."""
    models = ("--model", trio.path("donor"), "--base-model", trio.path("base"), "--out-path", out)
    words = [str(word) for word in (*models, "--max-rank", RANK, *options, "--quiet")]
    done = CliRunner().invoke(extractor, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def theirs(known_trio: Any) -> Path:
    """The adapter of mergekit, for each architecture that it knows."""
    return by_mergekit(known_trio, known_trio.path("mergekit"), *LAYERS_ONLY)


def biases(adapter: Path) -> dict[str, torch.Tensor]:
    """Deltas of biases, by the tensors they belong to."""
    tail = ".lora_B.bias"
    tensors = load_file(adapter / "adapter_model.safetensors")
    return {
        key.removeprefix("base_model.model.").removesuffix(tail) + ".bias": tensor
        for key, tensor in tensors.items()
        if key.endswith(tail)
    }


def test_both_take_the_same_modules(known_trio: Any, theirs: Path, kit: SimpleNamespace) -> None:
    """But for stacked experts and their routers: mergekit walks the modules of a model, and sees neither."""
    ours = kit.deltas(known_trio.adapter).keys()
    unseen = {name for name in ours if known_trio.stacked and SPARSE[known_trio.name].search(name)}
    assert kit.deltas(theirs).keys() == ours - unseen
    assert bool(unseen) == known_trio.stacked


def test_both_find_the_same_optimum(known_trio: Any, theirs: Path, kit: SimpleNamespace) -> None:
    base, donor = known_trio.weights("base"), known_trio.weights("donor")
    ours = kit.deltas(known_trio.adapter)
    for name, other in kit.deltas(theirs).items():
        whole = donor[name].float() - base[name].float()
        our_error, their_error = (torch.linalg.norm(whole - delta) for delta in (ours[name], other))
        optimum = torch.linalg.norm(torch.linalg.svdvals(whole)[RANK:])
        assert our_error <= 1.005 * their_error, name
        assert 0.5 * optimum < their_error < torch.linalg.norm(whole), name
        assert torch.linalg.norm(ours[name] - other) <= 0.02 * torch.linalg.norm(other), name


def test_iteration_comes_as_near_as_their_decomposition(kit: SimpleNamespace, tmp_path: Path) -> None:
    """Wide enough that ours iterates instead of decomposing the whole matrix."""
    sides = {"hidden_size": 320, "intermediate_size": 384, "num_key_value_heads": 4, "num_hidden_layers": 1}
    kit.build("llama", tmp_path, **sides)
    trio = kit.Trio("llama", tmp_path)
    ours, theirs = (
        kit.deltas(trio.extract(RANK, tmp_path / "adapters")),
        kit.deltas(by_mergekit(trio, tmp_path / "theirs", *LAYERS_ONLY)),
    )
    base, donor = trio.weights("base"), trio.weights("donor")
    assert len(ours) == 7
    for name, delta in ours.items():
        whole = donor[name].float() - base[name].float()
        assert torch.linalg.norm(whole - delta) <= 1.005 * torch.linalg.norm(whole - theirs[name]), name


def test_their_adapter_opens_in_peft(known_trio: Any, theirs: Path) -> None:
    inside = known_trio.peft(theirs).state_dict()
    factors = load_file(theirs / "adapter_model.safetensors")
    for key in (key for key in factors if key.endswith(".weight")):
        found = inside[key.replace(".weight", ".default.weight")]
        assert torch.equal(found, factors[key].to(found.dtype)), key
    assert len([key for key in inside if "lora_" in key]) == len(factors) - len(biases(theirs))


def test_we_merge_their_adapter(known_trio: Any, theirs: Path, kit: SimpleNamespace, tmp_path: Path) -> None:
    """As PEFT does; and the deltas of biases, which PEFT drops as mergekit does not say `lora_bias`."""
    rope = ("--rope-from", known_trio.path("donor"))
    ours = known_trio.merge(theirs, tmp_path / "ours", "target", *rope)
    peft = known_trio.merged_by_peft(theirs, tmp_path / "peft")
    before, linear, dense = known_trio.weights("target"), kit.deltas(theirs), biases(theirs)
    assert not [name for name in linear if not kit.agree(before[name], ours[name], peft[name])]
    for name in ours.keys() - linear.keys():
        wanted = before[name].float() + dense.get(name, torch.zeros(()))
        assert torch.equal(ours[name], wanted.to(before[name].dtype)), name
    graft, donor = (
        json.loads((folder / "config.json").read_text())
        for folder in (tmp_path / "ours", known_trio.path("donor"))
    )
    for key in ("rope_parameters", "max_position_embeddings"):
        assert graft[key] == donor[key]


@pytest.mark.parametrize("name", BIASED)
def test_biases_mean_to_us_what_they_mean_to_peft(
    name: str, trio_of: Callable[[str], Any], tmp_path: Path
) -> None:
    trio = trio_of(name)
    extracted = by_mergekit(trio, tmp_path / "extracted", *LAYERS_ONLY)
    config = json.loads((extracted / "adapter_config.json").read_text())
    (extracted / "adapter_config.json").write_text(json.dumps(config | {"lora_bias": True}))
    theirs = trio.merged_by_peft(extracted, tmp_path / "peft")
    ours = trio.merge(extracted, tmp_path / "ours", "target", "--rope-from", trio.path("donor"))
    before = trio.weights("target")
    assert biases(extracted)
    for key in biases(extracted):
        assert torch.equal(ours[key], theirs[key]), key
        assert not torch.equal(ours[key], before[key]), key


@pytest.mark.parametrize("name", ["llama", "olmo2"])
def test_whole_copies_overwrite_as_in_peft(
    name: str, trio_of: Callable[[str], Any], kit: SimpleNamespace, tmp_path: Path
) -> None:
    """Without options mergekit puts norms, embeddings and lm_head whole into `modules_to_save`."""
    trio = trio_of(name)
    adapter = by_mergekit(trio, tmp_path / "adapter")
    more = ("--replace-modules", "--rope-from", trio.path("donor"))
    ours = trio.merge(adapter, tmp_path / "ours", "target", *more)
    theirs = trio.merged_by_peft(adapter, tmp_path / "theirs")
    before, donor, linear = trio.weights("target"), trio.weights("donor"), kit.deltas(adapter)
    assert not [key for key in linear if not kit.agree(before[key], ours[key], theirs[key])]
    for key in ours.keys() - linear.keys():
        assert torch.equal(ours[key], theirs[key]), key
        assert torch.equal(ours[key], donor[key]), key
