"""Which tests run in one process, and in which order.

Tests of a folder share servers and fixtures that take seconds to start, so one process runs all of them.
"""

from typing import Any

from xdist.scheduler import LoadScopeScheduling

# Units of work, the longest first, so that all processors are busy to the end; others follow by name.
# The folders of a unit use the same servers.
UNITS = (
    ("cluster", "workflow"),
    ("evaluation",),
    ("robustness",),
    ("training", "planning"),
    ("report",),
    ("adapter",),
    ("parity",),
    ("cli",),
    ("hub",),
    ("sources",),
    ("dvc",),
    ("project",),
    ("formats",),
    ("world",),
    ("config",),
)
UNIT_OF = {folder: number for number, folders in enumerate(UNITS) for folder in folders}


def unit_order(folder: str) -> tuple[int, str]:
    """A key to sort folders of tests by, equal for folders of one unit."""
    number = UNIT_OF.get(folder, len(UNITS))
    return number, folder if number == len(UNITS) else ""


class FolderScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out units of work to the processes of pytest-xdist, in the order of the tests."""

    def __init__(self, config: Any, log: Any) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        folder = nodeid.split("/")[1]
        return str(unit_order(folder))
