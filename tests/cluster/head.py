"""`snakemake`, but it checks its jobs twice a second; the Slurm plugin waits ten seconds longer each time.

The first argument is the Python interpreter of its jobs.
"""

import sys

import snakemake.cli
from snakemake_interface_executor_plugins.executors import remote

SECONDS = 0.5
remote.RemoteExecutor.next_seconds_between_status_checks = property(lambda _: SECONDS, lambda *_: None)

if __name__ == "__main__":
    sys.executable = sys.argv[1]
    snakemake.cli.main(sys.argv[2:])
