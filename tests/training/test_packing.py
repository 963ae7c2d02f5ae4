import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextgraft.config.training import Recipe
from contextgraft.config.training.data import DocumentsSource
from contextgraft.errors import InputError
from contextgraft.prompts.tokens import Encode
from contextgraft.training.data import tokenising
from contextgraft.training.data.context import DataContext
from contextgraft.training.data.documents import find_files, read_documents, read_token_ids
from contextgraft.training.data.packing import (
    PACKED,
    PackedSequences,
    document_sources,
    pack,
    packed_path,
    sequences,
    write_shards,
)
from contextgraft.training.data.tokenising import TOKENISED
from contextgraft.training.reporting.progress import SilentReporter
from contextgraft.training.trainer import TrainingOptions, train

from .conftest import RECIPE, interrupt, write_recipe

Rows = list[list[int]]


def source(*files: str, **more: Any) -> DocumentsSource:
    return DocumentsSource(kind="documents", files=files, **more)


def pack_files(recipe: Recipe, folder: Path, encode: Encode) -> None:
    """Pack the recipe's documents in a folder into `work`, with a tokenizer that has no prefix."""
    context = DataContext(encode, (), 0, folder)
    pack(recipe, context, folder / "work", datasets=None, reporter=SilentReporter())


def recipe(**data: Any) -> Recipe:
    return Recipe.model_validate({**RECIPE, "data": [{"kind": "documents", **data}]})


@given(st.lists(st.lists(st.integers(1, 9), max_size=30), max_size=20), st.integers(2, 17))
def test_nothing_is_lost_but_the_tail_and_every_document_has_its_start(texts: Rows, length: int) -> None:
    stream = [token for text in texts for token in (0, *text)]
    rows = list(sequences(iter(texts), length, [0]))
    assert [token for ids, _ in rows for token in ids] == stream[: len(stream) // length * length]
    for ids, starts in rows:
        assert len(ids) == length
        assert starts == [place for place, token in enumerate(ids) if token == 0]


def test_three_kinds_of_files_hold_the_same_documents(tmp_path: Path) -> None:
    texts = ["a b", "c", "d e f"]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    lines = "".join(json.dumps({"body": text}) + "\n" for text in texts)
    (tmp_path / "all.jsonl").write_text(lines, encoding="utf-8")
    pq.write_table(pa.table({"body": texts}), tmp_path / "all.parquet")
    for files in ("?.txt", "all.jsonl", "all.parquet"):
        assert list(read_documents(find_files(source(files), tmp_path), "body")) == texts


def test_token_ids_are_taken_as_they_are(tmp_path: Path) -> None:
    """No tokenizer and no prefix; a row begins a document."""
    rows = [[1, 2, 3], [4, 5], [6] * 70]
    pq.write_table(pa.table({"input_ids": rows}), tmp_path / "x.parquet")
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in rows))

    def no_tokenizer(text: str) -> list[int]:
        raise AssertionError(text)

    for name in ("x.parquet", "x.jsonl"):
        wanted = recipe(files=[name], column="input_ids")
        context = DataContext(no_tokenizer, (9,), 7, tmp_path)
        pack(wanted, context, tmp_path / "work", datasets=None, reporter=SilentReporter())
        (packed,) = wanted.data
        assert isinstance(packed, DocumentsSource)
        sequence = PackedSequences(packed_path(tmp_path / "work", packed, 64), 1).row(0)
        assert sequence == ([1, 2, 3, 4, 5, *[6] * 59], [0, 3, 5])


@pytest.mark.parametrize(
    ("rows", "received"),
    [
        ([[1, 7]], "ids from 1 to 7"),
        ([[-1, 3]], "ids from -1 to 3"),
        (["text"], "str, not a list of whole numbers"),
        ([[1.5]], "list, not a list of whole numbers"),
        ([None], "NoneType, not a list"),
    ],
)
def test_what_is_no_token_id_is_one_line(tmp_path: Path, rows: list[Any], received: str) -> None:
    pq.write_table(pa.table({"input_ids": rows}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=f"from 0 to 6 in 'input_ids'; received {received}"):
        list(read_token_ids([tmp_path / "x.parquet"], 7))
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="cannot be read as token ids"):
        list(read_token_ids([tmp_path / "x.parquet"], 7))


@pytest.mark.parametrize("suffix", ["gz", "zst", "bz2", "lz4"])
def test_compressed_text_is_read_too_and_torn_text_is_refused(tmp_path: Path, suffix: str) -> None:
    texts = ["a b\r\n", "ç", "d e f" * 999]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    paths = [tmp_path / f"all.jsonl.{suffix}", tmp_path / f"one.txt.{suffix}"]
    for path, content in zip(paths, (lines, b"one\n"), strict=True):
        with pa.output_stream(str(path), compression="detect") as stream:
            stream.write(content)
    assert list(read_documents(paths, "text")) == [*texts, "one\n"]
    whole = paths[0].read_bytes()
    paths[0].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read as documents"):
        list(read_documents(paths, "text"))


def test_blank_lines_and_marks_of_byte_order_are_no_texts(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n{"text": ""}\n \n')
    (tmp_path / "y.txt").write_bytes(b"\xef\xbb\xbfb")
    assert list(read_documents([tmp_path / "x.json", tmp_path / "y.txt"], "text")) == ["a", "", "b"]


@pytest.mark.parametrize("pattern", ["**x", "../\0"])
def test_what_is_not_a_pattern_gives_one_line(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=r"not a valid file pattern|no file matches"):
        find_files(source(pattern), tmp_path)


def test_a_file_that_two_patterns_name_is_read_once(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    assert list(read_documents(find_files(source("b.*", "*.txt"), tmp_path), "text")) == ["b.txt", "a.txt"]


def test_each_sequence_comes_once_a_pass_in_an_order_of_the_seed(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text(" ".join(map(str, range(70))), encoding="utf-8")
    pack_files(recipe(files=["long.txt"]), tmp_path, lambda text: [int(word) for word in text.split()])
    wanted = source("long.txt")
    path = packed_path(tmp_path / "work", wanted, 16)
    passes = [[PackedSequences(path, seed).row(i)[0][0] for i in range(8)] for seed in (1, 2)]
    for order in passes:
        assert sorted(order[:4]) == sorted(order[4:]) == [0, 16, 32, 48]
    assert passes[0] != passes[1]
    assert passes[0] == [PackedSequences(path, 1).row(i)[0][0] for i in range(8)]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("x.csv", "a", r"x\.csv: unknown file format; expected \.json or \.jsonl or \.parquet or \.txt"),
        ("x.parquet.gz", "a", r"x\.parquet\.gz: unknown file format"),
        ("x.jsonl", "[" * 200_000, "x.jsonl: cannot be read as documents"),
        ("x.jsonl", '{"text": "\\ud800"}', "x.jsonl: cannot be read as documents"),
        ("x.jsonl", '{"body": "a"}', "x.jsonl: cannot be read as documents; expected texts in 'text'"),
        ("x.jsonl", '{"text": 1}', "received int, not a text"),
        ("x.parquet", "torn", "x.parquet: cannot be read as documents"),
        ("x.jsonl", "[1]", "x.jsonl: cannot be read as documents"),
        ("x.jsonl", "", "shorter than one sequence"),
        ("x.txt", b"\xff\xfe", "x.txt: cannot be read as documents"),
        ("x.txt", "too short", "shorter than one sequence; expected 16 tokens"),
        ("other.txt", "", r"x\.\*: no file matches"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, name: str, content: str | bytes, line: str) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=line):
        pack_files(recipe(files=["x.*"]), tmp_path, lambda text: [1] * len(text.split()))


def test_what_no_reader_can_open_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.txt").mkdir()
    with pytest.raises(InputError, match=r"x\.txt: cannot be read as documents"):
        list(read_documents([tmp_path / "x.txt"], "text"))
    pq.write_table(pa.table({"text": [[1], [2]]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="received list, not a text"):
        list(read_documents([tmp_path / "x.parquet"], "text"))
    with pytest.raises(InputError, match="expected texts in 'body'"):
        list(read_documents([tmp_path / "x.parquet"], "body"))


@given(st.integers(1, 40), st.integers(2, 9), st.integers(1, 60))
def test_shards_hold_every_row_whatever_their_size(count: int, length: int, shard_tokens: int) -> None:
    rows = [([number] * length, [number % length]) for number in range(count)]
    with TemporaryDirectory() as name:
        write_shards(Path(name), iter(rows), length, shard_tokens)
        assert len(list(Path(name).iterdir())) == -(-count // max(1, shard_tokens // length))
        packed = PackedSequences(Path(name), 1)
        assert sorted(packed.row(ordinal) for ordinal in range(count)) == rows


@pytest.fixture
def book(recipe_folder: Path) -> Path:
    """A recipe that learns from documents of several lengths."""
    return write_recipe(recipe_folder, data=[{"kind": "documents", "files": ["book.jsonl"]}])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_learns_from_documents_and_leaves_nothing_of_them(
    base: Path, book: Path, tmp_path: Path
) -> None:
    last = train(book, base, tmp_path / "out")
    assert last["step"] == 7
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir()]


@pytest.mark.parametrize("stop", [0, 2, 5])
def test_an_interrupted_run_reads_on_where_it_was(
    base: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    train(book, base, tmp_path / "whole")
    interrupt(
        monkeypatch,
        stop,
        lambda: train(book, base, tmp_path / "stopped", TrainingOptions(checkpoint_seconds=0)),
    )
    (book.parent / "book.jsonl").unlink()  # what is packed is not read again
    train(book, base, tmp_path / "stopped")
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_texts_are_tokenised_once_for_all_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In groups of a few tokens."""
    texts = ["one two", "three", "", "four five six seven eight", "nine"] * 20
    (tmp_path / "many.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    wanted = recipe(files=["many.jsonl"])
    asked: list[str] = []

    def encode(text: str) -> list[int]:
        asked.append(text)
        return [len(word) for word in text.split()]

    context = DataContext(encode, (0,), 100, tmp_path)
    monkeypatch.setattr(tokenising, "GROUP_TOKENS", 7)
    stale = tmp_path / PACKED / f"{TOKENISED}killed"
    stale.mkdir(parents=True)
    pack(wanted, context, tmp_path, datasets=None, reporter=SilentReporter())
    assert asked == texts
    (documents,) = document_sources(wanted)
    folders = {
        length: packed_path(tmp_path, documents, length)
        for length in {stage.length for stage in wanted.stages} | {*wanted.replay.lengths}
    }
    assert len(folders) > 1
    assert {*(tmp_path / PACKED).iterdir()} == {*folders.values()}  # nothing else is left
    ids = [each for text in texts for each in (0, *map(len, text.split()))]  # 0 begins a document
    for length, folder in folders.items():
        expected = [ids[begin : begin + length] for begin in range(0, len(ids) - length + 1, length)]
        rows = [PackedSequences(folder, 0).row(number) for number in range(len(expected))]
        assert sorted(row for row, _ in rows) == sorted(expected)
        for row, starts in rows:
            assert starts == [place for place, each in enumerate(row) if each == 0]


def test_a_run_killed_while_it_packs_packs_again(base: Path, book: Path, tmp_path: Path) -> None:
    train(book, base, tmp_path / "whole")
    wanted = packed_path(tmp_path / ".killed.partial", source("book.jsonl"), 64)
    left = wanted.with_name(f".{wanted.name}.partial")
    assert left.parent.name == PACKED
    left.mkdir(parents=True)
    (left / "00007.parquet").write_bytes(b"torn")
    train(book, base, tmp_path / "killed")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
