from pathlib import Path

import pytest

from contextgraft.config.base import read_yaml
from contextgraft.config.text_file import split_lines

FORMS = ["utf-8", "utf-8-sig", "utf-16"]


@pytest.mark.parametrize("encoding", FORMS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_yaml_reads_alike_in_every_form_that_editors_save(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "my study.yaml"
    path.write_bytes(end.join(["study: x", "ranks: [1, 2]", "note: größer", ""]).encode(encoding))
    assert read_yaml(path) == {"study": "x", "ranks": [1, 2], "note": "größer"}


def test_lines_end_as_files_end_them() -> None:
    assert split_lines("a\r\nb\nc\rd\u2028e\n") == ["a", "b", "c", "d\u2028e"]
    assert split_lines("") == []
