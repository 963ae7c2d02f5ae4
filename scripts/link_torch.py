"""link_torch.py SITE_PACKAGES: torch and what it requires, of this environment, as links in another one.

An environment with an older transformers then has the same torch, and no second build of it is fetched.
"""

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path


def required(name: str, known: dict[str, Distribution]) -> dict[str, Distribution]:
    """A distribution and those that it requires here, by name."""
    if name in known:
        return known
    try:
        found = distribution(name)
    except PackageNotFoundError:  # for another platform
        return known
    known = {**known, name: found}
    for requirement in found.requires or []:
        if "extra ==" not in requirement:
            known = required(re.split(r"[^\w.-]", requirement)[0].lower(), known)
    return known


def main(site_packages: Path) -> None:
    """Link every folder and file of the distributions that the other environment does not have."""
    for found in required("torch", {}).values():
        root = Path(str(found.locate_file("")))
        for name in sorted({file.parts[0] for file in found.files or []} - {"..", "__pycache__"}):
            if not (site_packages / name).exists():
                (site_packages / name).symlink_to(root / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
