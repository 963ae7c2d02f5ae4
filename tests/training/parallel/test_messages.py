"""How messages between ranks are waited for: gloo with a timeout, NCCL without; no process is started."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from contextgraft.attention.kernels import KERNELS
from contextgraft.training.parallel.communication import (
    RingSendRecv,
    all_to_all,
    context_mesh,
    context_parallel,
    weight_mesh,
)
from contextgraft.training.parallel.layout import Layout

PATIENCE = timedelta(seconds=7)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_group_has_the_timeout_of_the_run(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Eight processes, of which only this one exists; the ranks of a group are those of init_device_mesh."""
    timeouts: list[timedelta | None] = []
    new_group: Callable[..., Any] = distributed_c10d.new_group

    def made(*arguments: Any, timeout: timedelta | None = None, **options: Any) -> Any:
        timeouts.append(timeout)
        return new_group(*arguments, timeout=timeout, **options)

    dist.init_process_group("fake", rank=5, world_size=8, store=FakeStore(), timeout=PATIENCE)
    try:
        expected = [
            init_device_mesh(device, shape, mesh_dim_names=names)
            for shape, names in (((2, 2, 2), ("replica", "outer", "inner")), ((2, 4), ("replicate", "shard")))
        ]
        monkeypatch.setattr(distributed_c10d, "new_group", made)
        layout = Layout("double", 2, 2)
        meshes = (
            context_mesh(layout, replicas=2, device=device, timeout=PATIENCE),
            weight_mesh(8, 2, device, PATIENCE),
        )
        assert timeouts == [PATIENCE] * (4 + 4 + 4 + 4 + 2)
        for mesh, theirs in zip(meshes, expected, strict=True):
            assert mesh == theirs
            for name in mesh.mesh_dim_names or ():
                ours = dist.get_process_group_ranks(mesh.get_group(name))
                assert ours == dist.get_process_group_ranks(theirs.get_group(name))
                assert mesh.get_local_rank(name) == theirs.get_local_rank(name)
        assert weight_mesh(8, 1, device, PATIENCE).get_group("shard") == dist.group.WORLD
    finally:
        dist.destroy_process_group()


@pytest.fixture
def two_ranks() -> Iterator[None]:
    """Two processes, of which only this one exists."""
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("two_ranks")
@pytest.mark.parametrize(("device", "expected"), [("cpu", (PATIENCE,)), ("cuda", ())])
def test_the_host_waits_on_processors_only(
    monkeypatch: pytest.MonkeyPatch, device: str, expected: tuple[Any, ...]
) -> None:
    waits: list[tuple[Any, ...]] = []

    class Work:
        def wait(self, *timeout: timedelta) -> None:
            waits.append(timeout)

    monkeypatch.setattr(dist, "batch_isend_irecv", lambda _: [Work(), Work()])
    monkeypatch.setattr(dist, "all_to_all_single", lambda *_, **__: Work())
    mesh = context_mesh(Layout("flat", 1, 2), replicas=1, device=device, timeout=PATIENCE)
    cp = context_parallel(Layout("flat", 1, 2), mesh, KERNELS[device], ranks_per_node=2, timeout=PATIENCE)
    RingSendRecv(cp.inner, torch.zeros(2), 0).wait()
    all_to_all(torch.zeros(2, 2), cp.inner, split_dim=0, join_dim=1)
    assert waits == [expected] * 3
