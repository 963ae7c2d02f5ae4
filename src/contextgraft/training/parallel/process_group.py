"""The processes of a run: what torchrun tells each of them, and how they find one another."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from contextgraft.errors import ContextgraftError, InputError
from contextgraft.training.parallel.background import beside

LINGER = 3.0  # seconds for the others to learn that the error is told
FAILURES = ("gloo", "nccl", "timed out", "timeout", "connection", "peer", "socket", "store")


class PeerError(ContextgraftError):
    """Another process of the run is gone, or does not answer."""


class ElsewhereError(ContextgraftError):
    """The main process has the error and tells it; this one only ends."""


@dataclass(frozen=True)
class Launch:
    """One process among all: its rank, how many there are; its place on its node, and how many are there."""

    rank: int
    world: int
    local_rank: int
    local_world: int


def launched(environment: Mapping[str, str]) -> Launch | None:
    """What torchrun says, or None in a process that it did not start."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if any(name not in environment for name in (*names, "MASTER_ADDR", "MASTER_PORT")):
        return None
    return Launch(*(int(environment[name]) for name in names))


def on_gpu() -> Launch | None:
    """A run of one process, if there is a GPU for it: only the engine of many processes uses them."""
    return Launch(0, 1, 0, 1) if torch.cuda.is_available() else None


def device(launch: Launch) -> torch.device:
    """A GPU of its own for each process of a node, or the processor where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if torch.cuda.device_count() < launch.local_world:
        raise InputError(
            "more processes than GPUs on a node",
            expected=f"at most {torch.cuda.device_count()}",
            received=launch.local_world,
            remedy="lower --nproc-per-node",
        )
    return torch.device("cuda", launch.local_rank)


@contextmanager
def joined(launch: Launch, patience: timedelta) -> Iterator[torch.device]:
    """All processes, connected, each with its device.

    What ends the run is told by the first that notices, the others end quietly. A process that is gone, or
    silent for longer than `patience`, raises PeerError; in all but one process every error of the package
    becomes ElsewhereError.
    """
    store: Store = dist.HashStore()  # type: ignore[attr-defined]  # of one process
    try:
        if launch.world > 1:
            store = next(rendezvous("env://", launch.rank, launch.world, timeout=patience))[0]
        where = device(launch)
        if where.type == "cuda":
            torch.cuda.set_device(where)
        backend = "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo"
        groups = PrefixStore("groups", store)
        dist.init_process_group(
            backend, store=groups, rank=launch.rank, world_size=launch.world, timeout=patience
        )
        yield where
        dist.barrier()
        dist.destroy_process_group()
    except ContextgraftError as error:
        raise told(error, launch, store) from None
    except (dist.DistError, RuntimeError) as error:
        if not is_peers(error):
            raise
        raise told(_gone(error, patience), launch, store) from None


def told(error: ContextgraftError, launch: Launch, store: Store) -> ContextgraftError:
    """The error in the first process that asks, ElsewhereError in the others."""

    def ask() -> bool:
        first = not isinstance(error, ElsewhereError) and store.add("errors", 1) == 1
        store.add("told", 1)
        deadline = time.monotonic() + LINGER
        while launch.rank == 0 and store.add("told", 0) < launch.world and time.monotonic() < deadline:
            time.sleep(0.05)  # the store may live in this process
        return first

    try:
        first = beside(ask).result(2 * LINGER)
    except (dist.DistError, RuntimeError, TimeoutError):  # who has the store may be the one that hangs
        return error
    return error if first else ElsewhereError(str(error))


def _gone(error: BaseException, patience: timedelta) -> PeerError:
    return PeerError(
        f"another process of the run is gone, or did not answer for {patience.total_seconds():g} s",
        received=re.sub(r"\[[^]]*\]? *", "", str(error)).strip()[:80],
        remedy="run the same command again: it goes on from the last checkpoint",
    )


def is_peers(error: BaseException) -> bool:
    """Whether an error comes from talking to another process; gloo has no type of its own for it."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in FAILURES)
