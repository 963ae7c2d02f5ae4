"""How messages between ranks are waited for: gloo with a timeout, NCCL without; no process is started."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from contextgraft.attention.kernels import KERNELS
from contextgraft.training.parallel.communication import (
    RingSendRecv,
    all_to_all,
    context_mesh,
    context_parallel,
)
from contextgraft.training.parallel.layout import Layout

PATIENCE = timedelta(seconds=7)


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
    mesh = context_mesh(Layout("flat", 1, 2), replicas=1, device=device)
    cp = context_parallel(Layout("flat", 1, 2), mesh, KERNELS[device], ranks_per_node=2, timeout=PATIENCE)
    RingSendRecv(cp.inner, torch.zeros(2), 0).wait()
    all_to_all(torch.zeros(2, 2), cp.inner, split_dim=0, join_dim=1)
    assert waits == [expected] * 3
