from pathlib import Path

import pytest

from contextgraft.config.target_sheet import parse_targets, read_targets
from contextgraft.errors import ConfigError, InputError

HEADER = "name\tsource\trevision\tneedle\tskill\tnotes"


def test_empty_cells_count_as_absent_and_comments_as_nothing() -> None:
    first, second = parse_targets(
        f"# mine\n{HEADER}\n\na\tdemo:a\t\tn.yaml\t\tnice one\nb\t train:r.yaml \n", "s.tsv"
    )
    assert (first.name, first.source, first.revision, first.needle, first.skill) == (
        "a",
        "demo:a",
        None,
        "n.yaml",
        None,
    )
    assert (first.recipe, first.notes) == (None, "nice one")
    assert (second.source, second.recipe) == ("train:r.yaml", "r.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "s.tsv: the sheet is empty"),
        (HEADER, "s.tsv: the sheet has no fine-tune"),
        ("name,source\na,b", "s.tsv:1: the first line must name the columns"),
        ("name\tsource\tcolour\na\tb\tred", "s.tsv:1: the first line must name the columns"),
        ("name\tname\tsource\na\tb\tc", "s.tsv:1: the first line must name the columns"),
        (f"{HEADER}\na", "s.tsv:2: source: Field required"),
        (f"{HEADER}\n\n# x\na b\tdemo:a", "s.tsv:4: name"),
        (f"{HEADER}\na\tdemo:a\nbase\tdemo:b", "s.tsv:3: the name 'base' is reserved"),
        (f"{HEADER}\ndonor-s1\tdemo:b", "s.tsv:2: the name 'donor-s1' is reserved"),
        (f"{HEADER}\na\tdemo:a\na\tdemo:b", "s.tsv:3: the name 'a' is already used on line 2"),
        (f"{HEADER}\na\tb\tc\td\te\tf\tg", "s.tsv:2: too many cells; expected 6"),
        (f"{HEADER}\na\tb c", "s.tsv:2: source"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_targets(text, "s.tsv")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_an_unreadable_sheet_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the sheet"):
        read_targets(tmp_path / "none.tsv")
    (tmp_path / "bytes.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read the sheet"):
        read_targets(tmp_path / "bytes.tsv")
