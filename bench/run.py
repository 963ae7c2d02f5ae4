"""Speed and memory of extract and merge against the peers, on one machine in one run, as ratios."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
CONTEXTGRAFT = str(Path(sys.executable).with_name("contextgraft"))
RANKS = (16, 32, 64, 128)


@dataclass(frozen=True)
class Cost:
    """What one process took: seconds of wall and CPU time, and its peak resident memory in MB."""

    wall: float
    cpu: float
    peak_mb: float


def run(command: list[str]) -> Cost:
    """Run one program to its end and read its cost from the kernel."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"bench: {' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}\n{errors}")
    return Cost(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def measure(work: Path, layers: int, hidden: int, intermediate: int) -> dict[str, Cost]:
    """Every program once, on freshly generated checkpoints with warm file caches."""
    # In a process of its own: a child's peak memory counts what its parent held when it was started.
    shape = map(str, (layers, hidden, intermediate))
    subprocess.run([sys.executable, str(HERE / "checkpoints.py"), str(work), *shape], check=True)
    base, donor = work / "base", work / "donor"
    ranks = [word for rank in RANKS for word in ("--rank", str(rank))]
    adapter = work / "adapters" / "r32"
    peer = [sys.executable, str(HERE / "peers.py")]
    return {
        "extract, 4 ranks": run(
            [
                CONTEXTGRAFT,
                "extract",
                "--base",
                f"{base}",
                "--donor",
                f"{donor}",
                *ranks,
                "--out",
                f"{work / 'adapters'}",
            ]
        ),
        "full SVD, 1 rank": run([*peer, "full_svd", f"{base}", f"{donor}", "32"]),
        "merge": run(
            [
                CONTEXTGRAFT,
                "merge",
                "--adapter",
                f"{adapter}",
                "--target",
                f"{base}",
                "--out",
                f"{work / 'graft'}",
            ]
        ),
        "PEFT merge_and_unload": run([*peer, "peft_merge", f"{base}", f"{adapter}", f"{work / 'peft'}"]),
        "cp -r": run(["cp", "-r", f"{base}", f"{work / 'copy'}"]),
    }


def table(costs: dict[str, Cost]) -> str:
    """The costs and the ratios as a Markdown table."""
    rows = ["| work | wall s | CPU s | peak MB |", "|---|---|---|---|"]
    rows += [f"| {name} | {c.wall:.1f} | {c.cpu:.1f} | {c.peak_mb:.0f} |" for name, c in costs.items()]
    svd, ours = costs["full SVD, 1 rank"], costs["extract, 4 ranks"]
    rows += [
        "",
        f"extract, four ranks, against four full SVD runs (one measured, times four):"
        f" {4 * svd.cpu / ours.cpu:.1f}x less CPU time",
        f"merge against PEFT: {costs['PEFT merge_and_unload'].wall / costs['merge'].wall:.1f}x faster;"
        f" against cp -r: {costs['merge'].wall / costs['cp -r'].wall:.1f}x its wall time",
    ]
    return "\n".join(rows)


def main() -> None:
    """Generate, measure, print; `--json` for programs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--intermediate", type=int, default=8192)
    parser.add_argument("--json", action="store_true", help="print the costs as JSON")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="contextgraft-bench-"))
    try:
        costs = measure(work, options.layers, options.hidden, options.intermediate)
    finally:
        shutil.rmtree(work)
    print(json.dumps({k: asdict(v) for k, v in costs.items()}, indent=2) if options.json else table(costs))


if __name__ == "__main__":
    main()
