from pathlib import Path
from unittest.mock import Mock

import pytest

from contextgraft.config import target_sheet
from contextgraft.config.target_sheet import check_line_breaks, parse_targets, read_targets
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
        (f"{HEADER}\n{'a' * 231}\tdemo:a", "s.tsv:2: name: String should have at most 230 characters"),
        (f"{HEADER}\na\tdemo:a\nbase\tdemo:b", "s.tsv:3: the name 'base' is reserved"),
        (f"{HEADER}\ndonor-s1\tdemo:b", "s.tsv:2: the name 'donor-s1' is reserved"),
        (f"{HEADER}\na\tdemo:a\na\tdemo:b", "s.tsv:3: the name 'a' is already used on line 2"),
        (f"{HEADER}\na\tb\tc\td\te\tf\tg", "s.tsv:2: too many cells; expected 6"),
        (f"{HEADER}\na\tb c", "s.tsv:2: source"),
        (f"{HEADER}\na\thf:b/c d", "s.tsv:2: source"),
        (f'{HEADER}\na\t"b\tc"', "s.tsv:2: source"),
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


EXCEL = 'a\t"folder of mine/model"\t\t\t\t"said ""yes"", and\ta tab"\t\t'
FORMS = {
    "plain": ("utf-8", "\n"),
    "windows": ("utf-8", "\r\n"),
    "old mac": ("utf-8", "\r"),
    "excel": ("utf-8-sig", "\r\n"),
    "unicode text": ("utf-16", "\r\n"),
    "without a mark": ("utf-16-le", "\r\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_sheet_reads_alike_in_every_form_that_spreadsheets_save(tmp_path: Path, form: str) -> None:
    encoding, end = FORMS[form]
    lines = ["# mine\t\t", HEADER + "\t\t", EXCEL, "\t\t\t", ' # "b"\tdemo:b', "\u00a0c\tdemo:c \t", ""]
    path = tmp_path / "my sheet.tsv"
    path.write_bytes(end.join(lines).encode(encoding))
    first, second = read_targets(path)
    assert (first.name, first.source, first.revision) == ("a", "folder of mine/model", None)
    assert first.notes == 'said "yes", and\ta tab'
    assert (second.name, second.source, second.notes) == ("c", "demo:c", None)


def test_quotes_that_do_not_enclose_a_cell_are_text() -> None:
    (row,) = parse_targets(f'{HEADER}\na\tdemo:a\t\t\t\t"big" model of "x"', "s.tsv")
    assert row.notes == '"big" model of "x"'


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_break_inside_a_cell_is_named(end: str) -> None:
    lines = [HEADER, "a\tdemo:a", 'b\tdemo:b\t\t\t\t"one', 'two"', "c\tdemo:c"]
    with pytest.raises(ConfigError, match=r"s\.tsv:3: a cell contains a line break"):
        parse_targets(end.join(lines), "s.tsv")
    (row,) = parse_targets(f'{HEADER}\na\tdemo:a\t\t\t\t"one', "s.tsv")
    assert row.notes == '"one'


def test_lines_with_an_open_quotation_mark_are_each_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sheet of 2,000 such lines took seconds, as many as its lines squared."""
    searched = Mock(wraps=target_sheet.CLOSED)
    monkeypatch.setattr(target_sheet, "CLOSED", searched)
    check_line_breaks([HEADER, *(f'a{row}\tdemo:a\t\t\t\t"note' for row in range(2000))], "s.tsv")
    assert searched.match.call_count <= 2001


def test_a_separator_within_a_line_does_not_end_it() -> None:
    (row,) = parse_targets(f"{HEADER}\na\tdemo:a\t\t\t\tone\u2028two\x85three", "s.tsv")
    assert row.notes == "one\u2028two\x85three"


def test_other_files_are_refused_as_no_text(tmp_path: Path) -> None:
    (tmp_path / "wide.tsv").write_bytes(f"{HEADER}\na\tdemo:a".encode("utf-32"))
    with pytest.raises(InputError, match=r"wide\.tsv: cannot read the sheet.*zero bytes.*save it as UTF-8"):
        read_targets(tmp_path / "wide.tsv")


def test_another_encoding_is_refused_with_the_one_to_save_in(tmp_path: Path) -> None:
    (tmp_path / "latin.tsv").write_bytes("name\tsource\nä\tdemo:a".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.tsv: cannot read the sheet.*save it as UTF-8"):
        read_targets(tmp_path / "latin.tsv")
