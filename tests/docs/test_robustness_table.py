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


def numbers(file: str, pattern: str) -> list[int]:
    """The whole numbers in the first match of a pattern in the source of a test."""
    match = re.search(pattern, (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert match, pattern
    return [int(text.replace("_", "")) for text in match.groups()]


def test_counts_are_those_of_the_tests() -> None:
    kill, fuzz = "robustness/test_kill.py", "robustness/test_fuzz.py"
    (tail,), (spread,) = numbers(kill, r"^TAIL = (\d+)"), numbers(kill, r"^SPREAD = (\d+)")
    (again,) = numbers(kill, r"^AGAIN = (\d+)")
    few, many = numbers(kill, r'"times", \[(\d+), pytest\.param\((\d+), marks')
    widest, narrow = numbers(kill, r'"distance", \[(\d+), pytest\.param\((\d+), marks')
    steps = spread + len(range(0, tail, 3))
    between, slow_between = (len(range(2, 30, distance)) for distance in (widest, narrow))
    assert f"at {steps} steps of each command" in PAGE
    assert f"the last {tail} is tested, and {spread} of the others" in PAGE
    assert f"at {few} random times each. *Slow*: at every step, and at {many} random times" in PAGE
    assert f"kills at {between} steps, from two starting points. *Slow*: at {slow_between} steps" in PAGE
    assert f"| {steps + few + again} kills (*slow*: at every step); 6 spoiled results" in PAGE
    assert f"| {steps + few + again + 4 * between} kills (*slow*: at every step); spoiled records" in PAGE
    (headers,), (slow,) = numbers(fuzz, r"max_examples=(\d+)\n"), numbers(fuzz, r"FEW, max_examples=([\d_]+)")
    assert f"{headers} mutated and {headers} constructed headers, {headers} indices" in PAGE
    assert f"*slow* {slow:,} of each" in PAGE
