"""Build a model as a rank may, within so much memory: `python limited_build.py BASE BYTES`.

Prints the names of parameters that are not those of the file, gathered from all ranks.
"""

import json
import os
import resource
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.training import Recipe
from contextgraft.rope import settings
from contextgraft.training.parallel.engine import DistributedEngine
from contextgraft.training.parallel.options import ParallelOptions
from contextgraft.training.parallel.process_group import RankInfo

RECIPE = {
    "name": "limited",
    "stages": [{"length": 64, "steps": 1, "tokens": 64}],
    "data": [{"kind": "repeat"}],
    "optimiser": {"learning_rate": 1e-3},
}


def data_bytes() -> int:
    """Private writable memory of this process, written to or not, which RLIMIT_DATA limits."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmData" in line)
    return int(line.split()[1]) * 1024


def main() -> None:
    folder, granted = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    base = open_model(folder)
    info = RankInfo(rank, world, rank, world)
    engine = DistributedEngine(info, torch.device("cpu"), ParallelOptions(), base.config)
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + granted, most))
    state = engine.build(Recipe.model_validate(RECIPE), base, settings.read(base.config))
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    stored = load_file(folder / "model.safetensors")
    other = []
    for name, parameter in state.parameters.items():
        assert isinstance(parameter, DTensor)
        if not torch.equal(parameter.full_tensor(), stored[name].float()):
            other.append(name)
    print(json.dumps({"parameters": sorted(state.parameters), "other": other}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
