"""docs/robustness.md has a row for every verb of the command line, and names tests that exist."""

import re
from pathlib import Path

from contextgraft.cli.main import VERBS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_verb_has_a_row() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|(.*)\|$", section("Every verb"), re.MULTILINE)
    assert [verb for verb, _ in rows] == list(VERBS)
    for verb, row in rows:
        cells = [cell.strip() for cell in row.split("|")]
        assert len(cells) == 4, verb
        assert all(cells), verb


def test_tests_that_are_named_exist() -> None:
    names = re.findall(r"`([a-z/_]*test_[a-z_]+\.py)`", PAGE)
    assert len(names) > 20
    assert not [name for name in names if not list((ROOT / "tests").rglob(name))]
