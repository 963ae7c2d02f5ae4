"""A rank of a test: `python run_job.py MODULE JOB ARGUMENTS OUT`, with the environment of torchrun.

JOB is a function of a module in this folder; ARGUMENTS are JSON. The result is written to OUT.
"""

import json
import os
import sys
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import torch
import torch.distributed as dist


def main() -> None:
    module, job, arguments, out = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    result = getattr(import_module(module), job)(**json.loads(arguments))
    Path(out, f"{os.environ['RANK']}.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
