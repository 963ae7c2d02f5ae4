"""The command line with its trained weights counted: `python counted_export.py OUT KILLED_AT ARGUMENTS...`.

OUT gets the number of gathered weights, and how many of them were in memory at one time at most. The process
kills itself when it gathers the weight with this number, counted from 1 (0: it does not).
"""

import json
import os
import signal
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from contextgraft.cli.main import main
from contextgraft.training.parallel.engine import DistributedEngine
from contextgraft.training.result.gathered_weights import GatheredWeights


class Count:
    """Weights that were gathered; their memory is an array's, so that it is known when it is freed."""

    def __init__(self, killed_at: int) -> None:
        self.killed_at, self.all, self.most = killed_at, 0, 0
        self._alive: list[weakref.ref[Any]] = []

    def track(self, weight: torch.Tensor) -> torch.Tensor:
        """A copy of a weight that was just gathered, which is counted while it is in memory."""
        array = np.array(weight.numpy())
        self.all += 1
        self._alive = [each for each in self._alive if each() is not None] + [weakref.ref(array)]
        self.most = max(self.most, len(self._alive))
        if self.all == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.from_numpy(array)


@contextmanager
def counting(count: Count, *, distributed: bool) -> Iterator[None]:
    """Count what is read of the weights; of several processes, what the main one gathers for the result."""
    if not distributed:
        read = GatheredWeights.__getitem__
        with patch.object(GatheredWeights, "__getitem__", lambda self, name: count.track(read(self, name))):
            yield
        return
    gather, run = DTensor.full_tensor, DistributedEngine.run_with_weights

    def counted(self: DistributedEngine, *arguments: Any) -> Any:
        with patch.object(DTensor, "full_tensor", lambda weight: count.track(gather(weight))):
            return run(self, *arguments)

    with patch.object(DistributedEngine, "run_with_weights", counted):
        yield


def run() -> None:
    """Run the command line."""
    out, killed_at, *words = sys.argv[1:]
    rank = int(os.environ.get("RANK", "0"))
    count = Count(0 if rank else int(killed_at))
    sys.argv = ["contextgraft", *words]
    try:
        with counting(count, distributed="RANK" in os.environ):
            main()
    finally:
        if rank == 0:
            Path(out).write_text(json.dumps({"all": count.all, "most": count.most}), encoding="utf-8")


if __name__ == "__main__":
    run()
