"""A graft that a device made which is not here: a processor checks it within the stated bounds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.adapter.verify.checks import Check
from contextgraft.adapter.verify.graft import verify
from contextgraft.adapter.verify.other_device import _ordinals
from contextgraft.checkpoint.digest import tensor_digest
from contextgraft.checkpoint.model_folder import open_model

NAME = "model.layers.1.mlp.up_proj.weight"
Change = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module")
def from_cuda(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graft whose manifest says that CUDA made it."""
    path = tmp_path_factory.mktemp("cuda") / "graft"
    merge(plan_merge([ScaledAdapter(open_adapter(world.adapters / "r4"))], world.target), path)
    edit(path, lambda manifest: manifest.update(device="cuda"))
    return path


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((path / "contextgraft.json").read_text())
    change(manifest)
    (path / "contextgraft.json").write_text(json.dumps(manifest))


def changed(graft: Path, folder: Path, change: Change) -> Path:
    """A copy with one tensor changed, and its digest recorded as if it had been made so."""
    path = Path(shutil.copytree(graft, folder / "changed"))
    shard = path / open_model(path)[NAME].shard
    tensors = load_file(shard)
    tensors[NAME] = change(tensors[NAME]).contiguous()
    save_file(tensors, shard, metadata={"format": "pt"})
    digest = tensor_digest(open_model(path), NAME)
    edit(path, lambda manifest: manifest["tensors"][NAME].update(digest_after=digest))
    return path


def recomputed(graft: Path, world: Any) -> Check:
    checks = verify(graft, target=world.target, adapters=[world.adapters / "r4"])
    (check,) = [check for check in checks if check.name == "recomputed"]
    return check


def step(some: slice) -> Change:
    """The next value of the dtype, away from zero, in a range of elements."""

    def up(tensor: torch.Tensor) -> torch.Tensor:
        bits = tensor.view(torch.int16 if tensor.element_size() == 2 else torch.int32).clone().reshape(-1)
        bits[some] += 1
        return bits.view(tensor.dtype).reshape(tensor.shape)

    return up


def scaled(share: float) -> Change:
    return lambda tensor: (tensor.double() * (1 + share)).to(tensor.dtype)


def test_what_cuda_made_holds_on_a_processor(from_cuda: Path, world: Any, tmp_path: Path) -> None:
    check = recomputed(from_cuda, world)
    assert check.holds
    assert "made on cuda" in check.detail
    assert check.detail.endswith("that it was made on cuda is only the record's word")
    assert "0 elements differ" in check.detail
    check = recomputed(changed(from_cuda, tmp_path, step(slice(0, 3))), world)
    assert check.holds, check.detail
    assert "3 elements differ, within one step of the dtype" in check.detail


@pytest.mark.parametrize(
    "change",
    [scaled(0.05), torch.zeros_like, lambda tensor: tensor.flip(0)],
    ids=["scaled", "zero", "flipped"],
)
def test_more_than_rounding_is_found(from_cuda: Path, world: Any, tmp_path: Path, change: Change) -> None:
    check = recomputed(changed(from_cuda, tmp_path, change), world)
    assert not check.holds
    assert (
        f"tensor {NAME} differs from the merge on this processor; expected at most one step" in check.detail
    )


def test_a_graft_without_its_delta_is_found(from_cuda: Path, world: Any, tmp_path: Path) -> None:
    """Where deltas are smaller than a step, each element is within one: together they are not."""
    before = load_file(world.target / open_model(world.target)[NAME].shard)[NAME]
    check = recomputed(changed(from_cuda, tmp_path, lambda _: before.clone()), world)
    assert not check.holds


def test_a_forged_norm_is_found(from_cuda: Path, world: Any, tmp_path: Path) -> None:
    path = Path(shutil.copytree(from_cuda, tmp_path / "forged"))
    edit(path, lambda manifest: manifest["tensors"][NAME].update(survived_norm=1e3))
    assert "survived_norm" in recomputed(path, world).detail


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_neighbours_differ_by_one(dtype: torch.dtype) -> None:
    values = torch.tensor([-2.0, -1.0, -0.0, 0.0, 1.0, 2.0], dtype=dtype)
    up = torch.nextafter(values.float(), torch.tensor(9.0)) if dtype == torch.float32 else values
    assert _ordinals(values)[2] == _ordinals(values)[3] == 0
    assert (_ordinals(values).diff() >= 0).all()
    if dtype == torch.float32:
        assert (_ordinals(up) - _ordinals(values) == 1).all()
