"""Settings of all tests, the order in which they run, and the toy models of every package.

The process that hands out the tests to others reads this file, too: it imports no large package.
"""

import gc
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from .schedule import FolderScheduling, unit_order

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# A loaded machine may be slow: nothing depends on how long an example takes.
STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", STEADY, max_examples=40)
settings.register_profile("with slow tests", STEADY)
TESTS = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LAUNCH = 120_000  # milliseconds; long, for a busy machine
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hypothesis tries fewer examples without the slow tests; imports are not searched for garbage."""
    gc.set_threshold(50_000)
    quick = config.getoption("markexpr") == "not slow"
    settings.load_profile("quick" if quick else "with slow tests")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Processes that a test starts can be interrupted.

    A background job is started with SIGINT ignored, nohup ignores SIGHUP, and `main` in this process ignores
    SIGINT at its end.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest units of work come first."""
    items.sort(key=lambda item: unit_order(item.path.relative_to(TESTS).parts[0]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> FolderScheduling | None:
    """`--dist loadscope` hands out whole folders."""
    return FolderScheduling(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_collection_finish() -> None:
    """What collection made lives to the end: no collection of garbage walks it again, no fork copies it.

    Training collects garbage after every stage; half of the time of its tests went there.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Libraries that count their objects at the end, such as DuckDB, find none left."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def toy() -> SimpleNamespace:
    """The functions of toy_models.py, for tests that build their own models."""
    from . import toy_models

    names = ("config", "weights", "moved", "write", "contents")
    return SimpleNamespace(**{name: getattr(toy_models, name) for name in names})


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """The browser of this machine, for pages from the disk."""
    from playwright.sync_api import sync_playwright

    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs a browser, one of {', '.join(BROWSERS)}: scripts/browser.sh installs chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=FLAGS, timeout=LAUNCH)
        yield opened
        opened.close()
