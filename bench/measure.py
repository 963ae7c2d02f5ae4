"""What a program costs: time and memory, from the kernel."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

EVERY = 0.01  # seconds between looks at a program's anonymous memory


@dataclass(frozen=True)
class Cost:
    """Seconds of wall and CPU time, peak resident and peak anonymous memory in MB, number of runs."""

    wall: float
    cpu: float
    resident: float
    anonymous: float
    runs: int = 1


def run(command: Sequence[object]) -> Cost:
    """Run one program to its end; one that fails ends the benchmark."""
    started = time.monotonic()
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = [0]
    sampler = threading.Thread(target=_watch, args=(process.pid, peak))
    sampler.start()
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    sampler.join()
    if status != 0:
        sys.exit(
            f"bench: {' '.join(map(str, command))} ended with {os.waitstatus_to_exitcode(status)}\n{errors}"
        )
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, peak[0] / 1024)


def medians(costs: Sequence[Cost]) -> Cost:
    """The median times of several runs, and the highest peaks."""
    return Cost(
        median(cost.wall for cost in costs),
        median(cost.cpu for cost in costs),
        max(cost.resident for cost in costs),
        max(cost.anonymous for cost in costs),
        len(costs),
    )


def paired(programs: dict[str, Callable[[], Cost]], runs: int) -> dict[str, Cost]:
    """Every program `runs` times, in turns, so that a slow moment of the machine falls on all of them."""
    found: dict[str, list[Cost]] = {name: [] for name in programs}
    for _ in range(runs):
        for name, program in programs.items():
            found[name].append(program())
    return {name: medians(costs) for name, costs in found.items()}


def forget(*folders: Path) -> None:
    """Write what is dirty and drop these files from the page cache; needs no privilege."""
    os.sync()
    for file in (file for folder in folders for file in folder.rglob("*") if file.is_file()):
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _watch(pid: int, peak: list[int]) -> None:
    """Keep the largest RssAnon of a process, in kB, until it ends."""
    status = Path(f"/proc/{pid}/status")
    while True:
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        found = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
        if not found:  # it has ended and waits to be collected
            return
        peak[0] = max(peak[0], found[0])
        time.sleep(EVERY)
