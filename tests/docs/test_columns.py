"""Tables of columns in the documentation name every column that is written."""

from pathlib import Path

from contextgraft.formats.alignment import SCHEMA

PAGE = Path(__file__).resolve().parents[2] / "docs/formats.md"


def test_every_column_of_alignments_is_documented() -> None:
    table = PAGE.read_text().split("`align --out`")[1].split("`report` writes")[0]
    assert [name for name in SCHEMA.names if name not in table] == []
