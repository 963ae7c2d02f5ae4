"""The processes of a run: their ranks by torchrun, their connection, and which one reports an error."""

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
from contextgraft.training.parallel.background import run_in_thread
from contextgraft.training.parallel.devices import choose_device

LINGER = 10.0  # seconds that rank 0, which may hold the store, waits for the others to read it
PEER_ERRORS = ("gloo", "nccl", "timed out", "timeout", "connection", "peer", "socket", "store")


class PeerError(ContextgraftError):
    """Another process of the run has ended or does not answer."""


class RemoteRankError(ContextgraftError):
    """Another rank reports the error; this one ends silently."""


@dataclass(frozen=True)
class RankInfo:
    """One process: its rank among all, and its rank among those of its node."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


def torchrun_env(environment: Mapping[str, str]) -> RankInfo | None:
    """The variables that torchrun sets, or None in a process that it did not start."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if any(name not in environment for name in (*names, "MASTER_ADDR", "MASTER_PORT")):
        return None
    return RankInfo(*(int(environment[name]) for name in names))


def rank_device(info: RankInfo, kind: str) -> torch.device:
    """The CPU, or a GPU of its own for each process of a node."""
    if kind == "cpu":
        return torch.device("cpu")
    if torch.cuda.device_count() < info.local_world_size:
        raise InputError(
            "more processes than GPUs on a node",
            expected=f"at most {torch.cuda.device_count()}",
            received=info.local_world_size,
            remedy="lower --nproc-per-node, or use --device cpu",
        )
    return torch.device("cuda", info.local_rank)


@contextmanager
def process_group(info: RankInfo, timeout: timedelta, requested: str | None = None) -> Iterator[torch.device]:
    """Connect all processes of a run; yields the device of this one, of the requested type.

    A process that has ended, or is silent for longer than `timeout`, raises PeerError. The first rank to see
    an error raises it; in all others it becomes RemoteRankError.
    """
    store: Store = dist.HashStore()  # type: ignore[attr-defined]  # of one process
    try:
        if info.world_size > 1:
            store = next(rendezvous("env://", info.rank, info.world_size, timeout=timeout))[0]
        device = rank_device(info, choose_device(requested))
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        groups = PrefixStore("groups", store)
        dist.init_process_group(
            backend, store=groups, rank=info.rank, world_size=info.world_size, timeout=timeout
        )
        yield device
        dist.barrier()
        dist.destroy_process_group()
    except ContextgraftError as error:
        raise elect_reporter(error, info, store) from None
    except (dist.DistError, RuntimeError) as error:
        if not is_peer_error(error):
            raise
        raise elect_reporter(_peer_error(error, timeout), info, store) from None


def elect_reporter(error: ContextgraftError, info: RankInfo, store: Store) -> ContextgraftError:
    """The error itself in the first rank that calls this, RemoteRankError in the others."""

    def is_first() -> bool:
        first = not isinstance(error, RemoteRankError) and store.add("errors", 1) == 1
        store.add("ranks_informed", 1)
        deadline = time.monotonic() + LINGER
        while (
            info.rank == 0
            and store.add("ranks_informed", 0) < info.world_size
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        return first

    try:
        first = run_in_thread(is_first).result(2 * LINGER)
    except (
        dist.DistError,
        RuntimeError,
        TimeoutError,
    ):  # the process with the store may be the one that hangs
        return error
    return error if first else RemoteRankError(str(error))


def _peer_error(error: BaseException, timeout: timedelta) -> PeerError:
    return PeerError(
        f"another process of the run has ended, or did not answer for {timeout.total_seconds():g} s",
        received=re.sub(r"\[[^]]*\]? *", "", str(error)).strip()[:80],
        remedy="run the same command again: it resumes at the last checkpoint",
    )


def is_peer_error(error: BaseException) -> bool:
    """Whether an error comes from communication with another process; gloo has no type of its own for it."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in PEER_ERRORS)
