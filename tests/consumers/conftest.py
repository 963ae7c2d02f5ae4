"""The programs that scripts/consumers.sh brings, and the models and adapters that they are given."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def consumer() -> Callable[[str], Path]:
    """The folder of a program by the beginning of its name; the test is skipped where it is not installed."""

    def find(name: str) -> Path:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folders = sorted((cache / "contextgraft/consumers").glob(f"{name}-[0-9]*"))
        if not folders:
            pytest.skip(f"{name} is not installed: run scripts/consumers.sh")
        return folders[-1]

    return find
