"""Speed and memory of extract and merge against the peers, on one machine in one run, as ratios."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from measure import Cost, forget, paired, run
from table import LOADING, markdown, plot

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
RANKS = (16, 32, 64, 128)
# layers, hidden, intermediate, vocabulary: true sizes, of the larger models a few layers
SHAPES = {
    "1B": (16, 2048, 8192, 4096),
    "8B": (4, 4096, 14336, 128256),
    "70B": (1, 8192, 28672, 4096),
}
Costs = dict[str, Cost]


class Bench:
    """One shape: its models on disk, and the programs to run on them."""

    def __init__(self, work: Path, shape: str, runs: int) -> None:
        self.work, self.runs = work, runs
        self.base, self.donor = work / "base", work / "donor"
        # In a process of its own: a child's peak memory counts what its parent held when it was started.
        sizes = map(str, SHAPES[shape])
        subprocess.run([sys.executable, str(HERE / "checkpoints.py"), str(work), *sizes], check=True)

    def extract(self) -> Cost:
        """Four ranks; the last run's adapters stay."""
        shutil.rmtree(self.work / "adapters", ignore_errors=True)
        ranks = [word for rank in RANKS for word in ("--rank", rank)]
        models = ("--base", self.base, "--donor", self.donor)
        return run([BIN / "contextgraft", "extract", *models, *ranks, "--out", self.work / "adapters"])

    def cold(self, *command: object) -> Cost:
        """A program that finds the models on the disk only, and leaves its output there."""
        forget(self.base, self.donor)
        return run(["sh", "-c", '"$@" && sync -f "$0"', self.work, *command])

    def merge(self, *before: object) -> list[object]:
        """The command, and a free place for its output."""
        return [BIN / "contextgraft", "merge", "--adapter", self.work / "adapters" / "r32",
                "--target", self.base, *before, "--out", self.free("graft")]  # fmt: skip

    def peft(self) -> list[object]:
        """The same by PEFT."""
        adapter = self.work / "adapters" / "r32"
        return [sys.executable, HERE / "peers.py", "peft_merge", self.base, adapter, self.free("peft")]

    def copy(self) -> list[object]:
        """The least that a merge has to do."""
        return ["cp", "-r", self.base, self.free("copy")]

    def mergekit(self) -> Cost:
        """Rank 32 of the same linear layers, by mergekit."""
        models = ("--model", self.donor, "--base-model", self.base, "--out-path", self.free("mergekit"))
        which = ("--skip-undecomposable", "-e", "embed", "-e", "lm_head")
        return run([BIN / "mergekit-extract-lora", *models, "--max-rank", 32, *which, "--quiet"])

    def free(self, name: str) -> Path:
        """A path below the work folder at which nothing stands."""
        shutil.rmtree(self.work / name, ignore_errors=True)
        return self.work / name


def extraction(bench: Bench, mergekit: bool) -> Costs:
    """Extract from warm and cold cache, against reading alone and mergekit."""
    read = [sys.executable, HERE / "peers.py", "read", bench.base, bench.donor]

    def cold_extract() -> Cost:
        forget(bench.base, bench.donor)
        return bench.extract()

    costs = paired(
        {
            "extract, 4 ranks": bench.extract,
            "extract, 4 ranks, cold": cold_extract,
            "read both models, cold": lambda: bench.cold(*read),
        },
        bench.runs,
    )
    if mergekit:
        costs["mergekit-extract-lora, 1 rank"] = bench.mergekit()
    return costs


def merging(bench: Bench) -> Costs:
    """Merge against cp and PEFT: from warm cache, and from cold cache to the disk."""
    if not (bench.work / "adapters").exists():
        bench.extract()
    return paired(
        {
            "merge": lambda: run(bench.merge()),
            "cp -r": lambda: run(bench.copy()),
            "merge, cold, to disk": lambda: bench.cold(*bench.merge()),
            "cp -r, cold, to disk": lambda: bench.cold(*bench.copy()),
            "PEFT merge_and_unload": lambda: run(bench.peft()),
            LOADING: lambda: run([sys.executable, "-c", "import torch"]),
        },
        bench.runs,
    )


def main() -> None:
    """Generate, measure, print; results and plot go where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), action="append", help="default: all")
    parser.add_argument("--runs", type=int, default=3, help="of the short programs; the medians count")
    parser.add_argument("--no-mergekit", action="store_true", help="it takes minutes; it runs on 1B only")
    parser.add_argument("--json", type=Path, help="write the costs here")
    parser.add_argument("--plot", type=Path, help="write an SVG here")
    options = parser.parse_args()
    results: dict[str, Costs] = {}
    for shape in options.shape or SHAPES:
        work = Path(tempfile.mkdtemp(prefix="contextgraft-bench-"))
        try:
            bench = Bench(work, shape, options.runs)
            results[shape] = extraction(bench, shape == "1B" and not options.no_mergekit)
            if shape != "70B":
                results[shape] |= merging(bench)
        finally:
            shutil.rmtree(work)
        print(f"bench: {shape} done", file=sys.stderr, flush=True)
    rows = {shape: {name: asdict(cost) for name, cost in costs.items()} for shape, costs in results.items()}
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    if options.plot:
        options.plot.write_text(plot(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
