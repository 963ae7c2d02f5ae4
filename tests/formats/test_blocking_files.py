"""Pipes, devices and folders that are named like tables or texts: one line, and no reader waits for them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from contextgraft.errors import ContextgraftError
from contextgraft.formats.read_alignment import read_alignments
from contextgraft.formats.sample_files import check_intact, check_sample_file
from contextgraft.training.data.documents import read_documents, read_token_ids
from contextgraft.training.data.packing import is_packed
from contextgraft.training.reporting.metrics import read_previous

KINDS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "the kernel's": lambda path: path.symlink_to("/proc/self/environ"),
}
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "samples": ("s.parquet", check_sample_file),
    "pages of samples": ("s.parquet", check_intact),
    "alignments": ("a.parquet", lambda path: read_alignments([path])),
    "step metrics": ("m.parquet", lambda path: read_previous(path, 3)),
    "documents": ("d.txt", lambda path: list(read_documents([path], "text"))),
    "lines": ("d.jsonl", lambda path: list(read_documents([path], "text"))),
    "compressed lines": ("d.jsonl.gz", lambda path: list(read_documents([path], "text"))),
    "token ids": ("d.parquet", lambda path: list(read_token_ids([path], 8))),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_one_line(tmp_path: Path, kind: str, reader: str) -> None:
    name, read = READERS[reader]
    KINDS[kind](tmp_path / name)
    with pytest.raises(ContextgraftError, match=name) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_that_are_no_files_are_packed_again(tmp_path: Path, kind: str) -> None:
    (tmp_path / "p").mkdir()
    KINDS[kind](tmp_path / "p/00000.parquet")
    assert not is_packed(tmp_path / "p")
    assert not (tmp_path / "p").exists()
