"""How checks run: in turn, within a time budget; each prints its figures, and none stops the others."""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

PASS, FAIL, MEASURED, SKIPPED = "pass", "fail", "measured", "skipped"


class CheckTimeoutError(Exception):
    """The time budget ended while a check ran."""


class Outcome(NamedTuple):
    """One line of a check: what was measured, and whether it is right (None: a figure without a bound)."""

    subject: str
    figures: dict[str, Any]
    passed: bool | None = None


@dataclass
class GpuSession:
    """Where the checks run, their sizes (`small`: those for a processor), and the time that is left."""

    device: str
    small: bool
    repository: Path
    work: Path
    out: Path
    deadline: float
    data: dict[str, Any] = field(default_factory=dict)  # what one check leaves for a later one

    @property
    def is_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device == "cuda"

    @property
    def demo(self) -> Path:
        """Folder of the demo's models."""
        return self.repository / "src/contextgraft/sources/demo"

    @property
    def config(self) -> Path:
        """Folder of the demo's configuration."""
        return self.repository / "config/demo"

    def seconds_left(self) -> float:
        """Seconds until the budget ends."""
        return self.deadline - time.monotonic()

    def synchronise(self) -> None:
        """Wait until the device has done what was started on it."""
        import torch

        if self.is_gpu:
            torch.cuda.synchronize()

    def seconds_of(self, action: Callable[[], object], runs: int = 3) -> float:
        """Median seconds of an action on the device, after one run that is not counted."""
        action()
        self.synchronise()
        times = []
        for _ in range(runs):
            begun = time.monotonic()
            action()
            self.synchronise()
            times.append(time.monotonic() - begun)
        return sorted(times)[len(times) // 2]

    def peak_flops(self) -> float | None:
        """Peak FLOP/s in bfloat16 by the card's data sheet; None for other devices."""
        import torch

        from contextgraft.planning.mfu.cards import peak_flops

        return peak_flops(torch.cuda.get_device_name(0)) if self.is_gpu else None

    def run_verb(self, *words: object) -> str:
        """Run a verb of contextgraft in this process; returns its output, an error raises RuntimeError."""
        from click.testing import CliRunner

        from contextgraft.cli.main import cli
        from contextgraft.cli.verbosity import Verbosity

        arguments = [str(word) for word in words]
        result = CliRunner().invoke(cli, arguments, obj=Verbosity())
        if isinstance(result.exception, CheckTimeoutError):
            raise result.exception
        if result.exit_code:
            raise RuntimeError(f"{' '.join(arguments)}: {result.exception}; {result.output[-400:]}")
        return result.output

    def start_verb(self, *words: object, hide_gpu: bool = False) -> "subprocess.Popen[str]":
        """Start a verb of contextgraft in another process, with the GPU or without."""
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
        if hide_gpu:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        command = [sys.executable, "-m", "contextgraft.cli", *map(str, words)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


CheckFunction = Callable[[GpuSession], Iterator[Outcome]]


class Check(NamedTuple):
    """A function that yields outcomes, and the seconds it needs on a GPU."""

    name: str
    function: CheckFunction
    seconds: float


def run_checks(checks: Sequence[Check], session: GpuSession) -> list[dict[str, Any]]:
    """Run all checks that fit into the time left; returns one row for each outcome."""
    rows: list[dict[str, Any]] = []
    begun = time.monotonic()

    def add(verdict: str, check: str, subject: str, figures: dict[str, Any]) -> None:
        seconds = round(time.monotonic() - begun, 1)
        rows.append(
            {"check": check, "verdict": verdict, "subject": subject, "seconds": seconds, "figures": figures}
        )
        shown = "  ".join(f"{name}={_short(value)}" for name, value in figures.items())
        print(f"{seconds:6.1f}s {verdict:8} {check}: {subject}  {shown}", flush=True)
        text = json.dumps({"device": session.device, "small": session.small, "rows": rows}, indent=1)
        (session.out / "gpu-check.json").write_text(text + "\n", encoding="utf-8")

    for check in checks:
        left = session.seconds_left()
        if left < check.seconds:
            add(SKIPPED, check.name, "does not fit", {"seconds_left": left, "seconds_needed": check.seconds})
            continue
        try:
            with _time_limit(left):
                for outcome in check.function(session):
                    verdict = {None: MEASURED, True: PASS, False: FAIL}[outcome.passed]
                    add(verdict, check.name, outcome.subject, outcome.figures)
        except Exception as error:
            add(FAIL, check.name, "ended with an error", {"error": f"{type(error).__name__}: {error}"[:600]})
            traceback.print_exc(limit=8)
        _free_device(session)
    return rows


def relative_error(result: Any, reference: Any) -> float:
    """Norm of the difference divided by the norm of the reference, in float64."""
    difference = result.detach().double() - reference.detach().double()
    return float(difference.norm() / reference.detach().double().norm().clamp_min(1e-30))


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise CheckTimeoutError in the block after so many seconds."""

    def stop(*_: object) -> None:
        raise CheckTimeoutError(f"not finished after {seconds:.0f} s, the end of the time budget")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _free_device(session: GpuSession) -> None:
    """Free what a check left on the device; after a CUDA error there is nothing to be done."""
    import gc

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and session.is_gpu:
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:
            print(f"the device cannot be used any more: {error}", file=sys.stderr, flush=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
