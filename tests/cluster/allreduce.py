"""Adds up one number of each process that torchrun started, by gloo; rank 0 writes the sum and the places."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
total = torch.tensor([float(rank + 1)])
dist.all_reduce(total)
places: list[object] = [None] * world
dist.all_gather_object(places, {"rank": rank, "node": os.environ["SLURMD_NODENAME"]})
if rank == 0:
    Path(sys.argv[1]).write_text(json.dumps({"sum": total.item(), "places": places}))
dist.destroy_process_group()
