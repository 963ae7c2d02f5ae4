"""Files of a data set, chosen by patterns, pinned to a commit and verified as a model's are."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from contextgraft.errors import ContextgraftError, InputError, SourceError
from contextgraft.sources.fetch import fetch
from contextgraft.sources.hub.client import Hub

if TYPE_CHECKING:
    from tests.hub.server import HubServer

SOURCE = "hf:datasets/owner/books"
FILES = {
    ".gitattributes": b"*.parquet filter=lfs\n",
    "README.md": b"---\nlicense: mit\n---\n",
    "contextgraft.json": b"theirs",
    "train/0.parquet": b"PAR1" * 9_000,
    "train/deep/1.parquet": b"1RAP" * 9_000,
    "test/0.parquet": b"test",
    "notes.txt": b"notes",
}


def arrived(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["train/*.parquet"], {"train/0.parquet", "train/deep/1.parquet"}),
        (["*0.parquet", "train/*"], {"train/0.parquet", "train/deep/1.parquet", "test/0.parquet"}),
        (["notes.txt"], {"notes.txt"}),
        ([], FILES.keys() - {".gitattributes", "contextgraft.json"}),
    ],
)
def test_what_matches_arrives_with_its_record(
    *, server: "HubServer", hub: Hub, heard: Any, tmp_path: Path, patterns: list[str], names: set[str]
) -> None:
    commit = server.add("datasets/owner/books", FILES)
    record = fetch(SOURCE, tmp_path / "out", hub=hub, include=patterns)
    held = arrived(tmp_path / "out")
    assert json.loads(held.pop("contextgraft.json")) == record
    assert held == {name: FILES[name] for name in names}
    assert {key: record[key] for key in ("kind", "name", "source", "revision")} == {
        "kind": "data", "name": "books", "source": SOURCE, "revision": commit,
    }  # fmt: skip
    assert record["files"].keys() == names
    (plan,) = heard.plans
    assert plan.bytes == sum(len(FILES[name]) for name in names)
    assert not list(tmp_path.glob(".*"))


def test_a_revision_is_a_branch_or_a_commit(server: "HubServer", hub: Hub, tmp_path: Path) -> None:
    old = server.add("datasets/owner/books", FILES)
    new = server.update("datasets/owner/books", FILES | {"notes.txt": b"other"}, "refs/convert/parquet")
    for revision, commit, text in (("refs/convert/parquet", new, b"other"), (old, old, b"notes")):
        out = tmp_path / commit
        assert fetch(f"{SOURCE}@{revision}", out, hub=hub, include=["*.txt"])["revision"] == commit
        assert (out / "notes.txt").read_bytes() == text


def test_a_broken_line_is_mended_and_a_wrong_byte_is_fetched_again(
    server: "HubServer", hub: Hub, heard: Any, tmp_path: Path
) -> None:
    server.add("datasets/owner/books", FILES)
    server.fault("GET /lfs/", cut=20_000)
    server.fault("GET /datasets/owner/books/resolve/.*/notes.txt", flip=2)
    fetch(SOURCE, tmp_path / "out", hub=hub, include=["train/*", "notes.txt"])
    held = arrived(tmp_path / "out")
    assert {name: held[name] for name in FILES if name in held and name != "contextgraft.json"} == {
        name: FILES[name] for name in ("train/0.parquet", "train/deep/1.parquet", "notes.txt")
    }
    assert sorted("downloaded once more" in line for line in heard.lines) == [False, True]


def test_what_an_interrupted_fetch_left_is_taken_up(server: "HubServer", hub: Hub, tmp_path: Path) -> None:
    server.add("datasets/owner/books", FILES)
    server.fault("GET /lfs/", cut=20_000, times=1)
    server.fault("GET /lfs/", status=503, times=9)
    with pytest.raises(SourceError):
        fetch(SOURCE, tmp_path / "out", hub=hub, include=["train/0*"])
    assert not (tmp_path / "out").exists()
    server.faults.clear()
    fetch(SOURCE, tmp_path / "out", hub=hub, include=["train/0*"])
    assert server.requests("GET /lfs/")[-1].range == "bytes=20000-"
    assert arrived(tmp_path / "out")["train/0.parquet"] == FILES["train/0.parquet"]


@pytest.mark.parametrize(
    ("source", "how", "line"),
    [
        (
            SOURCE,
            {"include": ["*.csv"]},
            r"hf:datasets/owner/books: no file matches '\*\.csv'; received README\.md",
        ),
        (SOURCE, {"headers": True}, "--headers needs a model on the hub"),
        ("hf:datasets/owner/none", {}, "not found on the hub, or private"),
        (f"{SOURCE}@v9", {}, "revision not found"),
        ("hf:datasets/owner/books/train", {}, "not a repository on the hub; expected hf:datasets/OWNER"),
        ("hf:owner/model", {"include": ["*"]}, "--include needs a data set on the hub; remove --include"),
    ],
)
def test_what_cannot_be_had_is_one_line(
    *, server: "HubServer", hub: Hub, tmp_path: Path, source: str, how: dict[str, Any], line: str
) -> None:
    server.add("datasets/owner/books", FILES)
    with pytest.raises(ContextgraftError, match=line):
        fetch(source, tmp_path / "out", hub=hub, **how)
    assert not list(tmp_path.iterdir())


def test_the_command_brings_a_data_set(
    server: "HubServer", run: Callable[..., SimpleNamespace], tmp_path: Path
) -> None:
    server.add("datasets/owner/books", FILES)
    done = run("fetch", SOURCE, "--include", "train/*", "--include", "*.txt", "--out", tmp_path / "books")
    assert done.status == 0, done.stderr
    assert "fetch: hf:datasets/owner/books at " in done.stderr
    assert "3 files" in done.stderr
    assert arrived(tmp_path / "books").keys() == {
        "train/0.parquet", "train/deep/1.parquet", "notes.txt", "contextgraft.json",
    }  # fmt: skip


def test_a_model_of_an_owner_called_datasets_is_a_model(
    server: "HubServer", hub: Hub, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="hf:datasets/books: not found on the hub"):
        fetch("hf:datasets/books", tmp_path / "out", hub=hub)
    assert server.requests("/api/models/datasets/books")
