"""split_lock.py COMPILED WHEEL: the two locks from one resolution; called by lock.sh.

COMPILED is what `uv pip compile --generate-hashes` wrote, WHEEL the build of torch that this machine installs. What only
torch's CUDA build needs goes to requirements-cuda.lock. Hashes of torch that requirements.lock has for the same version
are kept, for they may be those of a build that this machine does not see.
"""

import hashlib
import re
import sys
from pathlib import Path

CUDA = re.compile(r"(cuda-|nvidia-|triton==)")
HEADER = "# Made by scripts/lock.sh from pyproject.toml. Install with: pip install --require-hashes --requirement"
LOCK, CUDA_LOCK = Path("requirements.lock"), Path("requirements-cuda.lock")


def pins(text: str) -> dict[str, set[str]]:
    """`name==version` (with its marker, if any) -> hashes."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [line.split(" --hash=") for line in lines if line and not line.startswith("#")]
    return {pin.strip(): {value.strip() for value in hashes} for pin, *hashes in words}


def written(found: dict[str, set[str]], path: Path) -> str:
    """The text of a lock: sorted, a hash a line."""
    entries = (" \\\n    ".join([pin, *(f"--hash={h}" for h in sorted(found[pin]))]) for pin in sorted(found))
    return "\n".join([f"{HEADER} {path.name}", *entries, ""])


def main(compiled: Path, wheel: Path) -> None:
    """Write both locks into the working folder."""
    found = pins(compiled.read_text())
    before = pins(LOCK.read_text()) if LOCK.exists() else {}
    torch = next(pin for pin in found if pin.startswith("torch=="))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    found[torch] |= before.get(torch, set()) | {f"sha256:{digest}"}
    for path, cuda in ((LOCK, False), (CUDA_LOCK, True)):
        chosen = {pin: hashes for pin, hashes in found.items() if bool(CUDA.match(pin)) == cuda}
        path.write_text(written(chosen, path))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
