"""A recipe whose documents are a data set of the hub: pinned, fetched, packed, on record."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from pydantic import ValidationError

from contextgraft.checkpoint.atomic import PARTIAL
from contextgraft.config.training.data import DocumentsSource
from contextgraft.errors import InputError, OutputError
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.hub.dataset import HubDatasets
from contextgraft.training.data import packing
from contextgraft.training.data.hub import FETCHED
from contextgraft.training.trainer import TrainingOptions, train

from ..hub.server import HubServer
from .conftest import interrupt, write_recipe
from .parallel.conftest import COMMAND, finish, start, start_ranks, wait_until
from .parallel.fork_server import Process

SOURCE = "hf:datasets/owner/books"
DATA = {"kind": "documents", "hub": SOURCE, "files": ["train/*.jsonl"]}
Learn = Callable[..., Path]


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer().running() as hub:
        yield hub


@pytest.fixture
def files(recipe_folder: Path) -> dict[str, bytes]:
    """The documents of `book.jsonl` in two files, and the other files of a data set."""
    lines = (recipe_folder / "book.jsonl").read_bytes().splitlines(keepends=True)
    halves = {"train/0.jsonl": b"".join(lines[:2]), "train/1.jsonl": b"".join(lines[2:])}
    return halves | {"README.md": b"---\nlicense: mit\n---\n", "test/0.jsonl": b"none"}


@pytest.fixture
def commit(server: HubServer, files: dict[str, bytes]) -> str:
    """The data set is on the hub."""
    return str(server.add("datasets/owner/books", files))


@pytest.fixture
def learn(server: HubServer, base: Path, recipe_folder: Path, tmp_path: Path) -> Learn:
    """Train in this process from such data; the result's folder."""
    library = HubDatasets(Hub(api=HfApi(endpoint=server.url, token=False), retry_delays=()))

    def learn(name: str, *data: dict[str, Any]) -> Path:
        config = write_recipe(recipe_folder, data=list(data or [DATA]))
        train(config, base, tmp_path / name, TrainingOptions(checkpoint_seconds=0), datasets=library)
        return tmp_path / name

    return learn


def held(folder: Path, *without: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in without}


def known(folder: Path) -> list[dict[str, Any]]:
    """What the result says of its data sets."""
    sidecar = json.loads((folder / "contextgraft.json").read_text(encoding="utf-8"))
    return list(sidecar.get("data", []))


def test_it_learns_as_from_the_same_local_files(server: HubServer, commit: str, learn: Learn) -> None:
    at_hand, hub = learn("at hand", {"kind": "documents", "files": ["book.jsonl"]}), learn("hub")
    assert held(hub, "contextgraft.json") == held(at_hand, "contextgraft.json")
    assert known(at_hand) == []
    (record,) = known(hub)
    assert (record["source"], record["revision"]) == (SOURCE, commit)
    assert record["files"].keys() == {"train/0.jsonl", "train/1.jsonl"}
    assert not server.requests("README.md|test/0.jsonl")
    assert len(server.requests("/resolve/")) == 2  # once for all lengths


@pytest.mark.parametrize("stop", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_a_resumed_run_stays_with_its_commit_and_does_not_ask_again(
    *,
    server: HubServer,
    commit: str,
    learn: Learn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: int,
) -> None:
    whole = learn("whole")
    interrupt(monkeypatch, stop, lambda: learn("out"))
    fetched = tmp_path / f".out{PARTIAL}" / FETCHED
    assert not [path for path in fetched.iterdir() if path.is_dir()]  # it is packed
    server.update("datasets/owner/books", {"train/0.jsonl": b"moved"})
    before = len(server.log)
    assert held(learn("out")) == held(whole)
    assert len(server.log) == before
    assert known(tmp_path / "out")[0]["revision"] == commit


def test_a_data_set_of_two_sources_is_one_at_one_commit(
    server: HubServer, commit: str, learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moving(library: HubDatasets, *arguments: Any) -> object:
        server.update("datasets/owner/books", {"train/0.jsonl": b"moved"})
        return fetch(library, *arguments)

    fetch = HubDatasets.fetch
    monkeypatch.setattr(HubDatasets, "fetch", moving)
    short, long = DATA | {"lengths": [16, 32]}, DATA | {"lengths": [64]}
    first, second = known(learn("out", short, long, DATA | {"files": ["train/1*"], "weight": 3.0}))
    assert first["files"].keys() == {"train/0.jsonl", "train/1.jsonl"}
    assert second["files"].keys() == {"train/1.jsonl"}
    assert {first["revision"], second["revision"]} == {commit}
    assert len(server.requests("/resolve/")) == 3


def test_a_source_of_lengths_that_never_come_is_not_fetched(
    server: HubServer, commit: str, learn: Learn
) -> None:
    never = DATA | {"lengths": [128]}
    assert known(learn("out", never, {"kind": "documents", "files": ["book.jsonl"]})) == []
    assert not server.log


def test_a_mistake_in_the_recipe_does_not_cost_the_fetch(
    server: HubServer, commit: str, learn: Learn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="expected texts in 'body'"):
        learn("out", DATA | {"column": "body"})
    before = len(server.log)
    out = learn("out", DATA | {"weight": 2.0})
    assert len(server.log) == before
    assert held(out, "contextgraft.json") == held(learn("whole"), "contextgraft.json")
    interrupt(monkeypatch, 4, lambda: learn("begun"))
    with pytest.raises(OutputError, match="another recipe"):  # steps would be lost
        learn("begun", DATA | {"weight": 2.0})


def environment(server: HubServer, home: Path) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return inherited | {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}


def start_fetching(server: HubServer, folder: Path, start: Callable[[], list[Process]]) -> list[Process]:
    """Processes of which one has some bytes in `folder` of a large file that never arrives completely."""
    server.fault("resolve/.*/train/1.jsonl", drip=40_000)
    before = server.sent
    processes = start()
    wait_until(lambda: server.sent >= before + 40_000, processes)
    wait_until(lambda: any(part.stat().st_size for part in folder.rglob("*.part")), processes)
    return processes


def first_or_all(*numbers: signal.Signals) -> list[Any]:
    """The first signal, and in the slow tests all of them, one after the other."""
    return [pytest.param(numbers[:1], id="one"), pytest.param(numbers, id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("signals", first_or_all(signal.SIGKILL, signal.SIGINT, signal.SIGTERM))
def test_a_run_killed_while_it_fetches_goes_on_there(
    server: HubServer, commit: str, files: dict[str, bytes], learn: Learn, *, base: Path,
    recipe_folder: Path, tmp_path: Path, signals: tuple[signal.Signals, ...],
) -> None:  # fmt: skip
    """Killed, interrupted and terminated, at once; it stays with the commit it found at first."""
    large = server.update("datasets/owner/books", files | {"train/1.jsonl": files["train/1.jsonl"] * 480})
    whole = learn("whole")
    options = ["--config", recipe_folder / "recipe.yaml", "--base", base, "--out", tmp_path / "out"]
    command, own = [*COMMAND, *map(str, options)], environment(server, tmp_path / "home")
    for sent in signals:
        (process,) = start_fetching(server, tmp_path, lambda: [start(command, own)])
        process.send_signal(sent)
        _, err = process.communicate()
        assert process.returncode == (-sent if sent == signal.SIGKILL else 130), err
        assert "Traceback" not in err
        server.update("datasets/owner/books", {"train/0.jsonl": sent.name.encode()})
    (said,) = finish([start(command, own)])
    assert "of it already here" in said.err
    assert server.requests("train/1.jsonl")[-1].range is not None
    assert held(tmp_path / "out") == held(whole)
    assert known(whole)[0]["revision"] == large


@pytest.mark.parametrize("signals", first_or_all(signal.SIGINT, signal.SIGTERM))
def test_one_of_many_processes_fetches_and_lets_go_when_interrupted(
    server: HubServer, commit: str, files: dict[str, bytes], learn: Learn, *, base: Path, recipe_folder: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: tuple[signal.Signals, ...],
) -> None:  # fmt: skip
    server.update("datasets/owner/books", files | {"train/1.jsonl": files["train/1.jsonl"] * 480})
    alone = learn("alone")
    for key, value in environment(server, tmp_path / "home").items():
        monkeypatch.setenv(key, value)
    options = ["--config", recipe_folder / "recipe.yaml", "--base", base, "--out", tmp_path / "out"]
    command = [*COMMAND, *map(str, options)]
    for sent in signals:
        processes = start_fetching(server, tmp_path, lambda: start_ranks(command, 2))
        for process in processes:
            process.send_signal(sent)
        said = [process.communicate()[1] for process in processes]
        assert processes[0].returncode == 130, said
        assert not any("Traceback" in err for err in said)
    said = [rank.err for rank in finish(start_ranks(command, 2))]
    assert "train: hf:datasets/owner/books@" in said[0]
    assert "packing 2 files to sequences of 64 tokens" in said[0]
    assert not said[1]
    assert known(tmp_path / "out") == known(alone)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"hub": "hf:datasets/owner/none"}, "hf:datasets/owner/none: not found on the hub"),
        ({"files": ["*.parquet"]}, r"no file matches '\*\.parquet'"),
        ({"files": ["*"]}, r"README\.md: unknown file format"),
    ],
)
def test_bad_data_sets_are_one_line_before_anything_is_fetched(
    *, server: HubServer, commit: str, learn: Learn, tmp_path: Path, change: dict[str, Any], line: str
) -> None:
    with pytest.raises(InputError, match=line):
        learn("out", DATA | change)
    assert not (tmp_path / "out").exists()
    assert not server.requests("/resolve/")


def test_bad_content_is_one_line(commit: str, learn: Learn) -> None:
    with pytest.raises(InputError, match=r"test/0\.jsonl: cannot be read as documents"):
        learn("out", DATA | {"files": ["test/*"]})


def test_without_a_hub_it_is_refused(base: Path, recipe_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hf:datasets/owner/books: needs the Hugging Face hub"):
        train(write_recipe(recipe_folder, data=[DATA]), base, tmp_path / "out")


@pytest.mark.parametrize("name", ["owner/books", "hf:owner/books", "hf:datasets/books", "hf:datasets/a/b/c"])
def test_a_recipe_names_a_data_set_in_full(name: str) -> None:
    with pytest.raises(ValidationError, match="hub"):
        DocumentsSource(kind="documents", hub=name, files=("*",))


SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "zeros": lambda raw: bytes(len(raw)),
    "cut": lambda raw: raw[: len(raw) // 3],
    "one byte": lambda raw: raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :],
    "a list": lambda raw: b"[]",
    "an object": lambda raw: b'{"hf:datasets/owner/books": 5}',
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
@pytest.mark.parametrize("pattern", ["pins.json", "*[!s].json", "*/train/*.jsonl", "*/contextgraft.json"])
def test_what_is_kept_of_data_sets_is_not_believed_when_it_is_spoiled(
    *,
    commit: str,
    learn: Learn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[bytes], bytes],
    pattern: str,
) -> None:
    """Interrupted between the fetch and the end of packing, or after some steps."""
    whole = learn("whole")
    if "/" in pattern:
        monkeypatch.setattr(packing, "write_shards", stop_here)
        with pytest.raises(KeyboardInterrupt):
            learn("out")
        monkeypatch.undo()
    else:
        interrupt(monkeypatch, 2, lambda: learn("out"))
    files = list((tmp_path / f".out{PARTIAL}" / FETCHED).glob(pattern))
    assert files
    for path in files:
        path.write_bytes(spoil(path.read_bytes()))
    assert held(learn("out")) == held(whole)


def stop_here(*_: object) -> None:
    raise KeyboardInterrupt
