"""The least time that each program could take on this machine: bytes / bandwidth, operations / speed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from goals import COPY_COLD, EXTRACT, MERGE_COLD, READ
from measure import Cost

RANK = 32  # of the merged adapter
PASSES, WIDTH = (
    5,
    64,
)  # of an extraction up to rank 128: D times a block, and its transpose but in the last pass
HIDDEN, TILE = 4096, 512


@dataclass(frozen=True)
class Machine:
    """Operations a second of one core in float32 products, bytes a second of one core in BLAKE3, cores."""

    flops: float
    hashed: float
    cores: int


def measure_machine() -> Machine:
    """Measured in a process of its own: memory of this one would count as that of the measured programs."""
    result = subprocess.run([sys.executable, __file__], check=True, capture_output=True, text=True)
    return Machine(**json.loads(result.stdout))


def linear_weights(layers: int, hidden: int, intermediate: int) -> int:
    """Weights with a delta: q, o, k and v (a quarter of the heads), gate, up and down."""
    return layers * (2 * hidden**2 + 2 * hidden * hidden // 4 + 3 * hidden * intermediate)


def floors(costs: Mapping[str, Cost], weights: int, model_bytes: int, machine: Machine) -> list[str]:
    """Rows of a table: the floor of extract and merge, by disk and by processor, and our ratio to it."""
    products = {
        EXTRACT: (2 * PASSES - 1) * 2 * WIDTH * weights / machine.flops + 2 * model_bytes / machine.hashed,
        MERGE_COLD: 2 * RANK * weights / machine.flops + 2 * model_bytes / machine.hashed,
    }
    disk = {EXTRACT: READ, MERGE_COLD: COPY_COLD}
    rows = []
    for work, seconds in products.items():
        if work in costs:
            both = costs[disk[work]].wall, seconds / machine.cores
            ratio = costs[work].wall / max(both)
            rows.append(f"| {work} | {both[0]:.1f} | {both[1]:.1f} | {costs[work].wall:.1f} | {ratio:.2f} |")
    return rows


def _measured() -> Machine:
    """The best of several runs of a product of an extraction's shape, and of a hash, in one thread."""
    import torch
    from blake3 import blake3

    torch.set_num_threads(1)
    D, Q = torch.randn(TILE, HIDDEN), torch.randn(HIDDEN, WIDTH)
    data = bytes(1 << 24)
    product = _best(lambda: torch.mm(D, Q))
    hashed = _best(lambda: blake3(data).digest())
    return Machine(2 * TILE * HIDDEN * WIDTH / product, len(data) / hashed, len(os.sched_getaffinity(0)))


def _best(function: Callable[[], object]) -> float:
    seconds = []
    for _ in range(20):
        started = time.thread_time()
        function()
        seconds.append(time.thread_time() - started)
    return min(seconds)


if __name__ == "__main__":
    print(json.dumps(asdict(_measured())))
