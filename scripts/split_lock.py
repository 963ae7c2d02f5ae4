"""split_lock.py COMPILED WHEEL: the two locks from one resolution; called by lock.sh.

COMPILED is what `uv pip compile --generate-hashes` wrote, WHEEL the build of torch that pip has here.
requirements.lock is for torch's CPU build; requirements-cuda.lock for the build on the package index, with
the libraries for NVIDIA GPUs that it needs. pip prefers a file whose hash the index lists, so one lock for
both builds would install the second one everywhere.
"""

import hashlib
import re
import sys
from pathlib import Path

CUDA = re.compile(r"(cuda-|nvidia-|triton==)")
HEADER = (
    "# Made by scripts/lock.sh from pyproject.toml. Install with: pip install --require-hashes --requirement"
)
LOCK, CUDA_LOCK = Path("requirements.lock"), Path("requirements-cuda.lock")
Pins = dict[str, set[str]]


def read_pins(text: str) -> Pins:
    """`name==version` -> hashes."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [line.split(" --hash=") for line in lines if line and not line.startswith("#")]
    return {pin.strip(): {value.strip() for value in hashes} for pin, *hashes in words}


def write(pins: Pins, path: Path) -> None:
    """Write a lock: sorted, one hash a line."""
    entries = (" \\\n    ".join([pin, *(f"--hash={h}" for h in sorted(pins[pin]))]) for pin in sorted(pins))
    path.write_text("\n".join([f"{HEADER} {path.name}", *entries, ""]))


def main(compiled: Path, wheel: Path) -> None:
    """Write both locks into the working folder."""
    pins = read_pins(compiled.read_text())
    torch = next(pin for pin in pins if pin.startswith("torch=="))
    digest = f"sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
    known = read_pins(LOCK.read_text()).get(torch, set()) if LOCK.exists() else set()
    cpu = known - pins[torch] if digest in pins[torch] else {digest}
    if not cpu:
        sys.exit(
            f"split_lock: expected the CPU build of {torch}; received {wheel.name}: run this where pip has it"
        )
    write({pin: pins[pin] for pin in pins if not CUDA.match(pin)} | {torch: cpu}, LOCK)
    write(pins, CUDA_LOCK)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
