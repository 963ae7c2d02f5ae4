"""Speed and memory of extract and merge against the peers, on one machine in one run, as ratios."""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from floors import measure_machine
from goals import (
    COPY,
    COPY_COLD,
    COPY_TEN,
    EXTRACT,
    MERGE,
    MERGE_COLD,
    MERGE_TEN,
    MERGE_VERIFIED,
    MERGEKIT,
    ONE,
    PEFT,
    READ,
    READ_ONE,
    STUDIES,
    SWEEP,
    TEN,
    TINY,
)
from measure import Cost, forget, paired, run
from results import Measured
from shapes import RANKS, SHAPES
from studies import studies
from table import LOADING, markdown, plot

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
TARGETS = 10
Costs = dict[str, Cost]


@dataclass
class Bench:
    """One shape: its models on disk, and the programs to run on them."""

    work: Path
    shape: str
    runs: int
    end: float
    mergekit: bool
    base: Path = field(init=False)
    donor: Path = field(init=False)

    def __post_init__(self) -> None:
        """Generate the models in a process of its own: its memory is not to count as that of a child."""
        self.base, self.donor = self.work / "base", self.work / "donor"
        sizes = map(str, SHAPES[self.shape])
        subprocess.run([sys.executable, str(HERE / "checkpoints.py"), str(self.work), *sizes], check=True)

    @property
    def adapter(self) -> Path:
        """The adapter that is merged."""
        return self.work / "adapters" / "r32"

    def extract(self) -> Cost:
        """Four ranks, the models on the disk only; the last run's adapters stay."""
        ranks = [word for rank in RANKS for word in ("--rank", rank)]
        models = ("--base", self.base, "--donor", self.donor)
        out = self.free("adapters")
        forget(self.base, self.donor)
        return run([BIN / "contextgraft", "extract", *models, *ranks, "--out", out])

    def cold(self, *command: object) -> Cost:
        """A program that finds the models on the disk only, and leaves its output there."""
        forget(*(path for path in self.work.iterdir() if path.is_dir()))
        return run(["sh", "-c", '"$@" && sync -f "$0"', self.work, *command])

    def merge(self, *targets: Path) -> list[object]:
        """The command, and a free path for its output."""
        named = [word for target in targets or (self.base,) for word in ("--target", target)]
        words = ("merge", "--adapter", self.adapter, *named, "--out", self.free("graft"))
        return [BIN / "contextgraft", *words]

    def evaluate(self, text: Path) -> list[object]:
        """Four ranks and a control in memory, one window of text; and the alignment."""
        adapters = [
            word for rank in RANKS for word in ("--adapter", f"r{rank}={self.adapter.parent}/r{rank}")
        ]
        asked = ("--suite", "perplexity", "--text", text, "--perplexity-lengths", 64, "--documents", 1)
        align = ("--base", self.base, "--alignment", f"r32={self.work / 'alignment.parquet'}")
        out = ("--out", self.free("evaluation", folder=True) / "samples.parquet")
        grafts = (*adapters, "--control", "theta_only")
        return [BIN / "contextgraft", "evaluate", self.base, *grafts, *asked, *align, *out]

    def peft(self) -> list[object]:
        """The same by PEFT."""
        return [sys.executable, HERE / "peers.py", "peft_merge", self.base, self.adapter, self.free("peft")]

    def copy(self, *targets: Path) -> list[object]:
        """The least that a merge has to do."""
        return ["cp", "-r", *(targets or (self.base,)), self.free("copy", folder=len(targets) > 1)]

    def run_mergekit(self) -> Cost:
        """Rank 32 of the same linear layers, by mergekit."""
        models = ("--model", self.donor, "--base-model", self.base, "--out-path", self.free("mergekit"))
        which = ("--skip-undecomposable", "-e", "embed", "-e", "lm_head")
        return run([BIN / "mergekit-extract-lora", *models, "--max-rank", 32, *which, "--quiet"])

    def free(self, name: str, *, folder: bool = False) -> Path:
        """A path below the work folder at which nothing stands, or an empty folder."""
        shutil.rmtree(self.work / name, ignore_errors=True)
        if folder:
            (self.work / name).mkdir()
        return self.work / name

    def paired(self, programs: dict[str, Callable[[], Cost]]) -> Costs:
        """The programs in turns, until the time is up."""
        return paired(programs, self.runs, self.end)


def tiny(bench: Bench) -> Costs:
    """What starting costs: a model that takes no time."""
    bench.extract()
    return bench.paired(
        {
            MERGE: lambda: run(bench.merge()),
            LOADING: lambda: run([sys.executable, "-c", "import torch"]),
        }
    )


def many(bench: Bench) -> Costs:
    """Ten targets by one command."""
    bench.extract()
    targets = [bench.work / "targets" / f"target-{number}" for number in range(TARGETS)]
    for target in targets:
        shutil.copytree(bench.base, target)
    return bench.paired(
        {
            MERGE_TEN: lambda: bench.cold(*bench.merge(*targets)),
            COPY_TEN: lambda: bench.cold(*bench.copy(*targets)),
        }
    )


def one_fine_tune(bench: Bench) -> Costs:
    """The two jobs that a study makes for a fine-tune, with hardly any question; and reading it once."""
    bench.extract()
    text = bench.work / "text.txt"
    text.write_text("One sentence after another. " * 40)
    read = [sys.executable, HERE / "peers.py", "read", bench.base]
    return bench.paired(
        {
            SWEEP: lambda: bench.cold(*bench.evaluate(text)),
            MERGE_VERIFIED: lambda: bench.cold(*bench.merge(), "--verify", bench.work / "verify.json"),
            READ_ONE: lambda: bench.cold(*read),
        }
    )


def extraction(bench: Bench) -> Costs:
    """Extract from a cold cache, against reading alone and mergekit."""
    read = [sys.executable, HERE / "peers.py", "read", bench.base, bench.donor]
    costs = bench.paired({EXTRACT: bench.extract, READ: lambda: bench.cold(*read)})
    if bench.mergekit:
        costs[MERGEKIT] = bench.run_mergekit()
    return costs


def merging(bench: Bench) -> Costs:
    """Extraction, then merge against cp and PEFT: from warm cache, and from cold cache to the disk."""
    return extraction(bench) | bench.paired(
        {
            MERGE: lambda: run(bench.merge()),
            COPY: lambda: run(bench.copy()),
            MERGE_COLD: lambda: bench.cold(*bench.merge()),
            COPY_COLD: lambda: bench.cold(*bench.copy()),
            PEFT: lambda: run(bench.peft()),
        }
    )


def whole_studies(bench: Bench) -> Costs:
    """One planned, one run."""
    return studies(bench.free("studies", folder=True), bench.base, bench.donor)


MEASUREMENTS = {
    TINY: tiny,
    STUDIES: whole_studies,
    TEN: many,
    ONE: one_fine_tune,
    "1B": merging,
    "8B": merging,
    "70B": extraction,
}


def main() -> None:
    """Generate, measure, print; results and plot go where the options say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), action="append", help="default: all")
    parser.add_argument("--runs", type=int, default=3, help="of the short programs; the medians count")
    parser.add_argument("--minutes", type=float, default=12, help="no run is repeated after so long")
    parser.add_argument("--no-mergekit", action="store_true", help="it takes minutes; it runs on 1B only")
    parser.add_argument("--json", type=Path, help="write the costs here")
    parser.add_argument("--plot", type=Path, help="write an SVG here")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    machine = measure_machine()
    costs: dict[str, Costs] = {}
    sizes: dict[str, int] = {}
    for shape in options.shape or SHAPES:
        mergekit = shape == "1B" and not options.no_mergekit
        with _work_folder() as work:
            bench = Bench(work, shape, options.runs, end, mergekit)
            costs[shape] = MEASUREMENTS[shape](bench)
            sizes[shape] = sum(file.stat().st_size for file in bench.base.glob("*.safetensors"))
        print(f"bench: {shape} done", file=sys.stderr, flush=True)
    measured = Measured(machine, sizes, costs)
    if options.json:
        measured.write(options.json)
    if options.plot:
        options.plot.write_text(plot(costs))
    print(markdown(measured))


@contextmanager
def _work_folder() -> Iterator[Path]:
    work = Path(tempfile.mkdtemp(prefix="contextgraft-bench-"))
    try:
        yield work
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
