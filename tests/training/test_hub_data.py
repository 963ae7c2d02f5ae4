"""A recipe whose documents are a data set of the hub: fetched, pinned, packed, on record."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import HfApi
from pydantic import ValidationError

from contextgraft.checkpoint.publish import WORK
from contextgraft.config.training import DocumentsSource
from contextgraft.errors import InputError
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.hub.dataset import fetch_dataset
from contextgraft.training.batches import Batches
from contextgraft.training.documents import Bring
from contextgraft.training.run import train

from ..hub.conftest import SERVER
from .conftest import write_recipe
from .parallel.conftest import COMMAND, finish, together

if TYPE_CHECKING:
    from tests.hub.server import HubServer

SOURCE = "hf:datasets/owner/books"
DATA = [{"kind": "documents", "hub": SOURCE, "files": ["train/*.jsonl"]}]


@pytest.fixture
def server() -> Iterator["HubServer"]:
    with SERVER.HubServer().running() as hub:
        yield hub


@pytest.fixture
def bring(server: "HubServer") -> Bring:
    return partial(fetch_dataset, hub=Hub(api=HfApi(endpoint=server.url, token=False), waits=()))


@pytest.fixture
def files(recipe_folder: Path) -> dict[str, bytes]:
    """The documents of `book.jsonl` in two files, and what a data set has beside them."""
    lines = (recipe_folder / "book.jsonl").read_bytes().splitlines(keepends=True)
    halves = {"train/0.jsonl": b"".join(lines[:2]), "train/1.jsonl": b"".join(lines[2:])}
    return halves | {"README.md": b"---\nlicense: mit\n---\n", "test/0.jsonl": b"none"}


def held(folder: Path, *without: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in without}


def sidecar(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "contextgraft.json").read_text(encoding="utf-8"))
    return content


def test_it_learns_as_from_the_same_files_at_hand(
    server: "HubServer", bring: Bring, files: dict[str, bytes], *, base: Path, recipe_folder: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    commit = server.add("datasets/owner/books", files)
    config = write_recipe(recipe_folder, data=[{"kind": "documents", "files": ["book.jsonl"]}])
    train(config, base, tmp_path / "at hand")
    write_recipe(recipe_folder, data=DATA)
    train(config, base, tmp_path / "hub", bring=bring)
    assert held(tmp_path / "hub", "contextgraft.json") == held(tmp_path / "at hand", "contextgraft.json")
    (record,) = sidecar(tmp_path / "hub")["data"]
    assert (record["source"], record["revision"]) == (SOURCE, commit)
    assert record["files"].keys() == {"train/0.jsonl", "train/1.jsonl"}
    assert "data" not in sidecar(tmp_path / "at hand")
    assert not server.requests("README.md|test/0.jsonl")
    assert len(server.requests("/resolve/")) == 2  # once for all lengths


@pytest.mark.parametrize("stop", [0, 4])
def test_a_resumed_run_stays_with_its_commit_and_does_not_ask_again(
    server: "HubServer", bring: Bring, files: dict[str, bytes], *, base: Path, recipe_folder: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int,
) -> None:  # fmt: skip
    commit = server.add("datasets/owner/books", files)
    config = write_recipe(recipe_folder, data=DATA)
    train(config, base, tmp_path / "whole", bring=bring)
    genuine = Batches.at

    def interrupted(self: Batches, step: Any) -> Any:
        if step.number == stop:
            raise KeyboardInterrupt
        return genuine(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "at", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config, base, tmp_path / "out", checkpoint_seconds=0, bring=bring)
    assert not list((tmp_path / f".out{WORK}").rglob("*.jsonl"))[1:]  # of the fetched nothing, but metrics
    server.update("datasets/owner/books", {"train/0.jsonl": b"moved"})
    asked = len(server.log)
    train(config, base, tmp_path / "out", bring=bring)
    assert len(server.log) == asked
    assert held(tmp_path / "out") == held(tmp_path / "whole")
    assert sidecar(tmp_path / "out")["data"][0]["revision"] == commit


def environment(server: "HubServer", home: Path) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return inherited | {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}


def test_a_run_killed_while_it_fetches_goes_on_there(
    server: "HubServer", bring: Bring, files: dict[str, bytes], *, base: Path, recipe_folder: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    lines = files["train/1.jsonl"] * 800
    server.add("datasets/owner/books", files | {"train/1.jsonl": lines})
    config = write_recipe(recipe_folder, data=DATA)
    train(config, base, tmp_path / "whole", bring=bring)
    arguments = ["--config", config, "--base", base, "--out", tmp_path / "out"]
    command = [*COMMAND, *map(str, arguments)]
    own = environment(server, tmp_path / "home")
    for sent in (signal.SIGKILL, signal.SIGINT):
        server.fault("resolve/.*/train/1.jsonl", slow=0.3)
        before = server.sent
        process = subprocess.Popen(command, env=own, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while server.sent < before + 40_000 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (-signal.SIGKILL, 130, 1), err
        assert "Traceback" not in err
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=True)
    assert "of it here already" in done.stderr
    assert server.requests("train/1.jsonl")[-1].range is not None
    assert held(tmp_path / "out") == held(tmp_path / "whole")


def test_one_of_many_processes_fetches(
    server: "HubServer", bring: Bring, files: dict[str, bytes], *, sharded: Path, recipe_folder: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    server.add("datasets/owner/books", files)
    config = write_recipe(recipe_folder, data=DATA)
    train(config, sharded, tmp_path / "alone", bring=bring)
    before = len(server.requests("/resolve/"))
    for key, value in environment(server, tmp_path / "home").items():
        monkeypatch.setenv(key, value)
    command = [*COMMAND, "--config", str(config), "--base", str(sharded), "--out", str(tmp_path / "out")]
    said = finish(together(command, 2))
    assert "train: hf:datasets/owner/books at " in said[0].err
    assert "packing 2 files to sequences of 64 tokens" in said[0].err
    assert not said[1].err
    assert len(server.requests("/resolve/")) == before + 2
    assert sidecar(tmp_path / "out")["data"] == sidecar(tmp_path / "alone")["data"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"hub": "hf:datasets/owner/none"}, "hf:datasets/owner/none: does not exist on the hub"),
        ({"files": ["*.parquet"]}, r"has no file '\*\.parquet'"),
        ({"files": ["README.md"]}, r"README\.md: is of no known kind"),
        ({"files": ["test/*"]}, r"test/0\.jsonl: cannot be read as documents"),
    ],
)
def test_bad_data_sets_are_one_line(
    server: "HubServer", bring: Bring, files: dict[str, bytes], *, base: Path, recipe_folder: Path,
    tmp_path: Path, change: dict[str, Any], line: str,
) -> None:  # fmt: skip
    server.add("datasets/owner/books", files)
    config = write_recipe(recipe_folder, data=[{**DATA[0], **change}])
    with pytest.raises(InputError, match=line):
        train(config, base, tmp_path / "out", bring=bring)
    assert not (tmp_path / "out").exists()


def test_without_a_hub_it_is_refused(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hf:datasets/owner/books: is on the hub, which is not at hand"):
        train(write_recipe(recipe_folder, data=DATA), base, tmp_path / "out")


@pytest.mark.parametrize("name", ["owner/books", "hf:owner/books", "hf:datasets/books", "hf:datasets/a/b/c"])
def test_a_recipe_names_a_data_set_in_full(name: str) -> None:
    with pytest.raises(ValidationError, match="hub"):
        DocumentsSource(kind="documents", hub=name, files=("*",))
