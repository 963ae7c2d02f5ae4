"""The documentation as a site: generated pages are up to date, and the navigation has every page once."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
LONGEST_README = 110  # lines: two screens


def test_generated_pages_are_up_to_date() -> None:
    """In a process of its own: commands that other tests have run keep their help."""
    script = [sys.executable, str(ROOT / "scripts/reference.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


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


def test_the_readme_shows_the_page_by_relative_addresses_and_in_words() -> None:
    """PyPI resolves no relative address: there the alternative texts are all that is left of the pictures."""
    text = (ROOT / "README.md").read_text()
    pictures = {address: words for words, address in re.findall(r"!\[([^]]*)\]\(([^)]+)\)", text)}
    assert "docs/images/page.png" in pictures
    for address, words in pictures.items():
        assert (ROOT / address).is_file()
        assert len(words) >= 40
    for address in re.findall(r"(?<!!)\[[^]]*\]\(([^)#]+)", text):
        assert (ROOT / address).is_file(), address


def test_scripts_and_styles_of_the_site_are_files_of_the_repository() -> None:
    """The plugin `offline` would load the script that search needs on file:// from a server."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    scripts = settings["extra"]["polyfills"]
    assert any("iframe-worker" in script for script in scripts)
    for name in (*scripts, *settings["extra_css"]):
        assert (ROOT / "docs" / name).is_file(), name
