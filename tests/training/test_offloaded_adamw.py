"""AdamW with its moments in host memory: the numbers of torch's AdamW, and where the moments are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from typing_extensions import override

from contextgraft.config.training import Optimiser, Recipe
from contextgraft.training import state
from contextgraft.training.activations.host_copies import Copy, ImmediateCopies
from contextgraft.training.offloaded_adamw import MOMENTS, OffloadedAdamW
from contextgraft.training.state import SavedState, TrainState, build_optimiser
from contextgraft.training.trainer import train

from .conftest import RECIPE, interrupt, write_recipe

OFFLOADED = {"optimiser": RECIPE["optimiser"] | {"offload": True}}


def drawn(seed: int) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (5, 7), "vector": (9,), "other": (1,)}
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()
    }


def test_numbers_are_those_of_adamw() -> None:
    """Two groups, one with weight decay; learning rates that change; a parameter without a gradient."""
    mine, theirs = drawn(0), drawn(0)
    settings = Optimiser(learning_rate=0.1, weight_decay=0.1, betas=(0.8, 0.9), offload=True)
    optimiser = build_optimiser(settings, mine, frozen_rows=0)
    vectors: dict[str, Any] = {"params": [theirs["vector"], theirs["other"]], "weight_decay": 0.0}
    matrices: dict[str, Any] = {"params": [theirs["matrix"]], "weight_decay": 0.1}
    reference = torch.optim.AdamW([matrices, vectors], betas=(0.8, 0.9), fused=True)
    groups = optimiser.param_groups
    assert isinstance(optimiser, OffloadedAdamW)
    for step in range(5):
        for each in (optimiser, reference):
            for group in each.param_groups:
                group["lr"] = 0.1 / (step + 1)
        for name, gradient in drawn(step + 1).items():
            if name != "other":
                mine[name].grad, theirs[name].grad = gradient.detach(), gradient.detach().clone()
        optimiser.step()
        reference.step()
        for name, parameter in mine.items():
            assert torch.equal(parameter, theirs[name])
    assert optimiser.param_groups is groups
    assert torch.equal(mine["other"], drawn(0)["other"])


class Late(ImmediateCopies):
    """Copies that are garbage until they are waited for; keeps which of them were on their way at once."""

    def __init__(self) -> None:
        self.waiting: dict[int, Copy] = {}
        self.most = 0

    @override
    def to_host(self, tensor: torch.Tensor) -> Copy:
        copy = Copy(tensor, torch.full_like(tensor, torch.nan))
        self.waiting[id(copy)] = copy
        self.most = max(self.most, len(self.waiting))
        return copy

    to_device = to_host

    @override
    def wait(self, copy: Copy) -> None:
        copy.result.copy_(self.waiting.pop(id(copy)).source)


@pytest.mark.parametrize("later", [{}, {"other": 3}])
def test_copies_are_waited_for_before_they_are_used(later: dict[str, int]) -> None:
    """Numbers of torch's AdamW with copies that end late; a parameter gets its first gradient later."""
    mine, theirs, copies = drawn(0), drawn(0), Late()
    optimiser = OffloadedAdamW([{"params": [*mine.values()]}], copies, lr=0.1, fused=True)
    reference = torch.optim.AdamW(theirs.values(), lr=0.1, fused=True)
    for step in range(5):
        for name, gradient in drawn(step + 1).items():
            if step >= later.get(name, 0):
                mine[name].grad, theirs[name].grad = gradient.detach(), gradient.detach().clone()
        optimiser.step()
        reference.step()
        assert not copies.waiting
        for name, parameter in theirs.items():
            assert torch.equal(mine[name], parameter)
            for moment, expected in reference.state[parameter].items():
                assert torch.equal(optimiser.state[mine[name]][moment], expected)
    assert copies.most == 3 * 2  # the moments of one parameter arrive while those of two others are there


def test_a_run_ends_in_the_same_bytes_resumed_or_not(
    base: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(write_recipe(recipe_folder), base, tmp_path / "plain")
    offloaded = write_recipe(recipe_folder, **OFFLOADED)
    train(offloaded, base, tmp_path / "offloaded")
    resumed = tmp_path / "resumed"
    interrupt(monkeypatch, 5, lambda: train(offloaded, base, resumed))
    train(offloaded, base, resumed)
    for name in ("model.safetensors", "metrics.jsonl"):
        expected = (tmp_path / "plain" / name).read_bytes()
        assert (tmp_path / "offloaded" / name).read_bytes() == expected
        assert (resumed / name).read_bytes() == expected


@pytest.fixture
def fake_ranks() -> Iterator[DeviceMesh]:
    """Two processes, of which only this one exists."""
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield init_device_mesh("cuda", (2,))
    dist.destroy_process_group()


def on_cuda(mesh: DeviceMesh | None) -> list[torch.nn.Parameter]:
    tensors = [torch.zeros(4, width, device="cuda") for width in (3, 5, 7)]
    if mesh is not None:
        tensors = [DTensor.from_local(tensor, mesh, [Shard(0)], run_check=False) for tensor in tensors]
    return [torch.nn.Parameter(tensor) for tensor in tensors]


def devices(optimiser: torch.optim.AdamW, parameters: list[torch.nn.Parameter]) -> list[str]:
    """Where the moments of each parameter are, if it has any."""
    found = []
    for parameter in parameters:
        moments = optimiser.state[parameter]
        found.append("/".join(sorted({moments[name].device.type for name in MOMENTS if name in moments})))
    return found


class OnFakeGpu(ImmediateCopies):
    """Copies of fake tensors between a GPU and host memory."""

    @override
    def to_host(self, tensor: torch.Tensor) -> Copy:
        return Copy(tensor, torch.empty_like(tensor, device="cpu", pin_memory=True))

    @override
    def to_device(self, tensor: torch.Tensor) -> Copy:
        return Copy(tensor, torch.empty_like(tensor, device="cuda"))


@pytest.mark.parametrize("sharded", [False, True])
def test_moments_leave_a_gpu_while_the_next_parameter_is_updated(
    fake_ranks: DeviceMesh, monkeypatch: pytest.MonkeyPatch, *, sharded: bool
) -> None:
    """Fake tensors, as they would be on a GPU."""
    during: list[list[str]] = []
    genuine = torch.optim.AdamW.step

    def watched(self: Any, *arguments: Any) -> None:
        genuine(self, *arguments)
        during.append(devices(self, parameters))

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    monkeypatch.setattr(state, "host_copies", lambda _: OnFakeGpu())
    with FakeTensorMode():
        parameters = on_cuda(fake_ranks if sharded else None)
        names = {str(number): parameter for number, parameter in enumerate(parameters)}
        optimiser = build_optimiser(Optimiser(learning_rate=0.1, offload=True), names, frozen_rows=0)
        for _ in range(2):
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            optimiser.step()
            assert devices(optimiser, parameters) == ["cpu", "cpu", "cpu"]
    first = [["cuda", "", ""], ["cuda", "cuda", ""], ["cpu", "cuda", "cuda"]]
    second = [["cuda", "cpu", "cpu"], ["cuda", "cuda", "cpu"], ["cpu", "cuda", "cuda"]]
    assert during == first + second


def test_moments_of_a_checkpoint_that_is_loaded_on_a_gpu_leave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTensor, "copy_", lambda tensor, _: tensor)  # to a GPU it needs one
    monkeypatch.setattr(state, "host_copies", lambda _: OnFakeGpu())
    with FakeTensorMode():
        parameter, *_ = on_cuda(None)
        optimiser = build_optimiser(
            Optimiser(learning_rate=0.1, offload=True), {"one": parameter}, frozen_rows=0
        )
        names = ("weight", *MOMENTS)
        saved = SavedState(2, {f"{name}/one": torch.zeros(4, 3, device="cuda") for name in names})
        TrainState(None, {"one": parameter}, optimiser).restore(saved)  # type: ignore[arg-type]
        assert devices(optimiser, [parameter]) == ["cpu"]
        assert optimiser.state[parameter]["step"].device.type == "cuda"
        parameter.grad = torch.ones_like(parameter)
        optimiser.step()
        assert devices(optimiser, [parameter]) == ["cpu"]


def test_a_recipe_without_the_key_is_what_it_was() -> None:
    """The identity of runs that were begun by an earlier version."""
    assert "offload" not in Recipe.model_validate(RECIPE).model_dump()["optimiser"]
