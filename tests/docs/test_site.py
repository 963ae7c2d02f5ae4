"""The documentation as a site: generated pages are up to date, and the navigation has every page once."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LONGEST_README = 110  # lines: two screens


def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["commands.md", "configuration.md"])
def test_generated_pages_are_up_to_date(name: str) -> None:
    """`python scripts/reference.py` writes them."""
    assert (ROOT / "docs" / name).read_text() == reference().PAGES[name]()


def pages(navigation: list[Any]) -> Iterator[str]:
    """The files of a navigation of mkdocs."""
    for entry in navigation:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from pages(value) if isinstance(value, list) else [value]


def test_every_page_is_in_the_navigation_once() -> None:
    named = sorted(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert named == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_readme_fits_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= LONGEST_README
