"""The processes of a run: what torchrun tells each of them, and how they find one another."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from contextgraft.errors import ContextgraftError, InputError

FAILURES = ("gloo", "nccl", "timed out", "connection", "peer", "socket", "store")


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
def joined(where: torch.device, patience: timedelta) -> Iterator[None]:
    """All processes, connected; one that is gone or silent for longer than `patience` raises PeerError."""
    try:
        if where.type == "cuda":
            torch.cuda.set_device(where)
        dist.init_process_group("cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo", timeout=patience)
        yield
        dist.barrier()
        dist.destroy_process_group()
    except (dist.DistError, RuntimeError) as error:
        if not is_peers(error):
            raise
        raise PeerError(
            f"another process of the run is gone, or did not answer for {patience.total_seconds():g} s",
            received=str(error).splitlines()[0][:100],
            remedy="run the same command again: it goes on from the last checkpoint",
        ) from None


def is_peers(error: BaseException) -> bool:
    """Whether an error comes from talking to another process; gloo has no type of its own for it."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in FAILURES)
