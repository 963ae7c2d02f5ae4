"""What the ranks of a test agree on: jobs of `run_job.py`."""

import time
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from threading import Timer
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from contextgraft.checkpoint import atomic
from contextgraft.errors import InputError
from contextgraft.training.parallel import engine
from contextgraft.training.parallel.background import TaskStatus, poll_result
from contextgraft.training.parallel.checkpoints import PendingCheckpoint
from contextgraft.training.parallel.engine import DistributedEngine
from contextgraft.training.parallel.options import ParallelOptions
from contextgraft.training.parallel.process_group import RankInfo, RemoteRankError

TIMEOUT = timedelta(minutes=5)


def long_tasks(out: str) -> dict[str, Any]:
    """What each rank gets of tasks of the main process, each of which lasts for five messages to the others.

    Also: how long the main process waits between messages, how many messages this rank received, and whether
    the output is in its place when the ranks go on.
    """
    info = RankInfo(dist.get_rank(), dist.get_world_size(), dist.get_rank(), dist.get_world_size())
    distributed = DistributedEngine(
        info, torch.device("cpu"), ParallelOptions(timeout=TIMEOUT), {"num_attention_heads": 4}
    )
    waits: list[float] = []
    messages: list[object] = []

    def poll(future: Future[Any], timeout: timedelta) -> TaskStatus:
        waits.append(timeout.total_seconds())
        return poll_result(future, timedelta(milliseconds=10))

    def broadcast(message: list[Any], **options: Any) -> None:
        broadcast_object_list(message, **options)
        messages.append(message)

    def work() -> str:
        end = len(waits) + 5
        while len(waits) < end:
            time.sleep(0.001)
        return "done"

    def fail() -> None:
        raise InputError("no good")

    def move(work_folder: Path, out: Path) -> None:
        work()
        move_into_place(work_folder, out)

    broadcast_object_list, move_into_place = dist.broadcast_object_list, atomic.move_into_place
    with (
        patch.object(dist, "broadcast_object_list", broadcast),
        patch.object(engine, "poll_result", poll),
        patch.object(atomic, "move_into_place", move),
    ):
        results: list[Any] = [distributed.run_on_main(work)]
        try:
            distributed.run_on_main(fail)
        except (InputError, RemoteRankError) as error:
            results.append([type(error).__name__, str(error)])
        with distributed.publish(Path(out)) as folder:
            (folder / "file").touch()
        results.append((Path(out) / "file").exists())
    timeout = TIMEOUT.total_seconds()
    return {"results": results, "waits": waits, "messages": len(messages), "timeout": timeout}


def agreements(folder: str) -> list[tuple[bool, bool]]:
    """What is agreed on before a checkpoint, while it is written, and when one rank has written it."""
    launch = RankInfo(dist.get_rank(), dist.get_world_size(), dist.get_rank(), dist.get_world_size())
    distributed = DistributedEngine(
        launch, torch.device("cpu"), ParallelOptions(timeout=TIMEOUT), {"num_attention_heads": 4}
    )
    second = dist.get_rank() == 1
    said = [distributed.sync_flags(save=second, stop=False)]
    written: Future[object] = Future()
    distributed.pending = PendingCheckpoint(Path(folder, "step-00000007"), written)
    said.append(distributed.sync_flags(save=second, stop=second))
    if second:
        written.set_result(None)
    else:
        Timer(1, written.set_result, (None,)).start()
    said.append(distributed.sync_flags(save=second, stop=False))
    return said
