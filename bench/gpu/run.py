"""All checks of what runs on a GPU, in five minutes: `python bench/gpu/run.py`; see docs/gpu.md.

Prints a line for each figure; writes gpu-check.json and profile.txt. Exit code 1 if a check failed.
"""

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpu_checks import Check, GpuSession, Outcome

REPOSITORY = Path(__file__).resolve().parents[2]
IMPORT = "import "  # begin of the name of a check that stands in for checks that cannot be imported


def install(wheels: Path, target: Path) -> None:
    """Install the wheels of a folder into `target`, without a network, and import from there first."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        raise SystemExit(f"gpu-check: no wheels in {wheels}; make them with scripts/gpu_wheels.sh")
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *files], check=True)
    sys.path.insert(0, str(target))


def environment(session: "GpuSession") -> "Iterator[Outcome]":
    """Versions and the card."""
    from importlib.metadata import version

    import torch
    from gpu_checks import Outcome

    packages = ("torch", "transformers", "peft", "safetensors", "pyarrow", "numpy")
    figures: dict[str, object] = {name: version(name) for name in packages}
    figures["python"] = sys.version.split()[0]
    if session.is_gpu:
        card = torch.cuda.get_device_properties(0)
        figures |= {"card": card.name, "GiB": round(card.total_memory / 2**30, 1)}
        figures |= {"capability": f"{card.major}.{card.minor}", "cuda": torch.version.cuda}
    yield Outcome("versions", figures)


def load_checks(module: str, name: str = "CHECKS") -> "list[Check]":
    """The checks of a module; if it cannot be imported, one check that fails with the error."""
    from gpu_checks import Check

    try:
        checks: list[Check] = getattr(importlib.import_module(module), name)
    except Exception as error:
        return [Check(f"{IMPORT}{module}", partial(_fail, error), 0)]
    return checks


def _fail(error: Exception, _: "GpuSession") -> "Iterator[Outcome]":
    raise error


def all_checks() -> "list[Check]":
    """The checks in the order they run: first what decides whether results are right."""
    from gpu_checks import Check

    return [
        Check("environment", environment, 0),
        *load_checks("attention_checks"),
        *load_checks("training_checks"),
        *load_checks("graft_checks"),
        *load_checks("speed_checks"),
        *load_checks("training_checks", "LATER_CHECKS"),
    ]


def main() -> None:
    """Run the checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes for a processor")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="folder for the results")
    parser.add_argument("--seconds", type=float, default=285, help="time budget")
    parser.add_argument("--only", action="append", help="run only this check; repeatable")
    parser.add_argument("--wheels", type=Path, help="folder of wheels that this machine lacks")
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        work = Path(folder)
        if options.wheels is not None:
            install(options.wheels, work / "site")
        sys.path.insert(0, str(REPOSITORY / "src"))
        import torch
        from gpu_checks import FAIL, GpuSession, run_checks

        if options.device == "cuda" and not torch.cuda.is_available():
            raise SystemExit("gpu-check: torch finds no GPU; use --device cpu --small")
        session = GpuSession(options.device, options.small, REPOSITORY, work, options.out, deadline)
        chosen = [
            check
            for check in all_checks()
            if not options.only or check.name in options.only or check.name.startswith(IMPORT)
        ]
        rows = run_checks(chosen, session)
    failed = sorted({row["check"] for row in rows if row["verdict"] == FAIL})
    print(f"failed: {', '.join(failed)}" if failed else f"no check failed; results in {options.out}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
