"""What a program costs: time and memory, from the kernel, and how busy other programs kept the machine."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

INTERVAL = 0.01  # seconds between two samples of a program's anonymous memory
QUIET = 0.2  # cores that other programs may use while one is measured
TICKS = os.sysconf("SC_CLK_TCK")
BLOCK = 512  # bytes; the unit of getrusage


@dataclass(frozen=True)
class Cost:
    """Seconds of wall and CPU time, peak resident and peak anonymous memory in MB, number of runs.

    `system` is the part of the CPU time that the kernel used for the program: copying, page faults, writing.
    `others` is the number of cores that other programs kept busy meanwhile, `disk` the MB that the program
    read from the disk and wrote to it: what comes from the page cache does not count.
    """

    wall: float
    cpu: float
    system: float
    resident: float
    anonymous: float
    others: float
    disk: float
    runs: int = 1

    @property
    def is_quiet(self) -> bool:
        """Whether the machine was this program's own."""
        return self.others <= QUIET


def run(command: Sequence[object]) -> Cost:
    """Run one program to its end, after what others left to write; one that fails ends the benchmark."""
    os.sync()
    started, busy, own = time.monotonic(), _busy(), time.process_time()
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = [0]
    sampler = threading.Thread(target=_sample, args=(process.pid, peak))
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
    others = max(0.0, _busy() - busy - usage.ru_utime - (time.process_time() - own)) / wall
    cpu = usage.ru_utime + usage.ru_stime
    disk = (usage.ru_inblock + usage.ru_oublock) * BLOCK / 1e6
    return Cost(wall, cpu, usage.ru_stime, usage.ru_maxrss / 1024, peak[0] / 1024, others, disk)


def medians(costs: Sequence[Cost]) -> Cost:
    """The median times of several runs, and the highest peaks."""
    return Cost(
        median(cost.wall for cost in costs),
        median(cost.cpu for cost in costs),
        median(cost.system for cost in costs),
        max(cost.resident for cost in costs),
        max(cost.anonymous for cost in costs),
        max(cost.others for cost in costs),
        median(cost.disk for cost in costs),
        len(costs),
    )


def paired(programs: dict[str, Callable[[], Cost]], runs: int, end: float) -> dict[str, Cost]:
    """Every program `runs` times, in turns, so that a slow moment of the machine falls on all of them.

    A run next to other programs is reported and repeated, at most as often again and until `end`
    (`time.monotonic`); the result is the median of the quiet runs, or of all where none was quiet.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in programs}
    for turn in range(2 * runs):
        for name, program in programs.items():
            quiet = sum(cost.is_quiet for cost in costs[name])
            if quiet >= runs or (turn >= runs and time.monotonic() > end):
                continue
            cost = program()
            costs[name].append(cost)
            if not cost.is_quiet:
                text = f"bench: other programs used {cost.others:.1f} cores during {name!r}: it runs again"
                print(text, file=sys.stderr, flush=True)
    return {name: medians([cost for cost in all_ if cost.is_quiet] or all_) for name, all_ in costs.items()}


def forget(*folders: Path) -> None:
    """Write what is dirty and drop these files from the page cache; needs no privilege."""
    os.sync()  # pages that wait to be written are not dropped
    for file in (file for folder in folders for file in folder.rglob("*") if file.is_file()):
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _busy() -> float:
    """Seconds of all cores that programs or another virtual machine used since the start of the machine.

    Without the kernel's own time, of which writing a program's output to the disk is a part.
    """
    user, nice, _, _, _, _, _, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + steal) / TICKS


def _sample(pid: int, peak: list[int]) -> None:
    """Keep the largest RssAnon of a process, in kB, until it ends."""
    status = Path(f"/proc/{pid}/status")
    while True:
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        values = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
        if not values:  # it has ended and waits to be collected
            return
        peak[0] = max(peak[0], values[0])
        time.sleep(INTERVAL)
