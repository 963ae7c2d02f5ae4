import os
import threading
from pathlib import Path

import pytest

from contextgraft.config.base import read_yaml
from contextgraft.config.target_sheet import read_sheet
from contextgraft.config.text_file import is_file, open_regular, path_exists, read_text_file, split_lines
from contextgraft.errors import InputError

FORMS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]


@pytest.mark.parametrize("encoding", FORMS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_yaml_reads_alike_in_every_form_that_editors_save(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "my study.yaml"
    path.write_bytes(end.join(["study: x", "ranks: [1, 2]", "note: größer", ""]).encode(encoding))
    assert read_yaml(path) == {"study": "x", "ranks": [1, 2], "note": "größer"}


def test_lines_end_as_files_end_them() -> None:
    assert split_lines("a\r\nb\nc\rd\u2028e\n") == ["a", "b", "c", "d\u2028e"]
    assert split_lines("") == []


def test_a_text_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("/dev/zero", "/proc/self/environ", str(tmp_path)):
        with pytest.raises(OSError, match="not a regular file"):
            read_text_file(Path(path))
    monkeypatch.setattr("contextgraft.config.text_file.MAX_BYTES", 3)
    (tmp_path / "long").write_text("1234")
    with pytest.raises(OSError, match="more than 3 bytes"):
        read_text_file(tmp_path / "long")


def test_a_pipe_is_read_as_a_shell_gives_it_and_never_waited_for(tmp_path: Path) -> None:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(b"a: 1")

    writer = threading.Thread(target=write)
    writer.start()
    assert read_text_file(Path(f"/dev/fd/{reading}")) == "a: 1"
    writer.join()
    os.close(reading)
    os.mkfifo(tmp_path / "pipe")
    assert read_text_file(tmp_path / "pipe") == ""


@pytest.mark.parametrize("text", ["x" * 300, "数" * 100, "a/" * 3000, "a\0b", ""])
def test_a_text_that_cannot_be_a_path_names_no_file(text: str) -> None:
    assert not is_file(text)
    assert not path_exists(f"{text}/x")


def test_only_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(path)
    (tmp_path / "file").write_bytes(b"x")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"x"


def test_what_is_missing_has_its_neighbours_as_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"received No such file.*`contextgraft init` writes a study"):
        read_yaml(tmp_path / "studi.yaml")
    (tmp_path / "study.yaml").touch()
    with pytest.raises(InputError, match=r"expected a YAML file;.*; in its folder: study\.yaml$"):
        read_yaml(tmp_path / "studi.yaml")
    with pytest.raises(InputError, match="expected a YAML file; received a folder"):
        read_yaml(tmp_path)
    with pytest.raises(InputError, match=r"a tab-separated table;.*`contextgraft init` writes a sheet"):
        read_sheet(tmp_path / "sheet.tsv")
