"""Whatever happened to the files that are kept of the hub: none is believed, each is fetched again."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contextgraft.errors import ContextgraftError
from contextgraft.sources.cache import REVISIONS, cache_folder, cached_models, local_folder
from contextgraft.sources.fetched import check_fetched
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.known_adapters import known_rope

if TYPE_CHECKING:
    from tests.hub.server import HubServer

SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "zeros": lambda raw: bytes(len(raw)),
    "cut": lambda raw: raw[: len(raw) // 3],
    "one byte": lambda raw: raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :],
    "empty": lambda raw: b"",
    "another line": lambda raw: b"a" * 40,
    "a list": lambda raw: b"[]",
    "an object": lambda raw: b'{"kind": "source"}',
    "deep": lambda raw: b"[" * 100_000,
}
WRONG: tuple[Any, ...] = (5, [], {}, "x", None, [[]], {"a": 1})  # values of any key of a record
RECORDS = ("contextgraft.json", "contextgraft.source.json")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEXTGRAFT_CACHE", str(tmp_path / "cache"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("repository", "spoil"),
    [
        pytest.param(repository, spoil, id=f"{repository}-{name}", marks=[] if quick else pytest.mark.slow)
        for name, spoil in SPOILS.items()
        for repository, quick in (("model", name == "one byte"), ("peft_adapter", True))
    ],
)
def test_every_file_of_the_cache_is_repaired(
    *, server: "HubServer", hub: Hub, request: pytest.FixtureRequest, spoil: Any, repository: str
) -> None:
    """Of weights the header, which is in the first bytes; their bytes are not read each time."""
    server.add("owner/tiny", request.getfixturevalue(repository))
    entry = local_folder("hf:owner/tiny", hub)
    whole = content(entry)
    for name, raw in whole.items():
        spoiled = spoil(raw[:80]) + raw[80:] if name.endswith(".safetensors") else spoil(raw)
        (entry / name).write_bytes(spoiled)
        assert local_folder("hf:owner/tiny", hub) == entry
        assert content(entry) == whole, name


@pytest.mark.parametrize("repository", ["model", "peft_adapter"])
def test_a_record_with_other_values_is_not_believed(
    server: "HubServer", hub: Hub, request: pytest.FixtureRequest, repository: str
) -> None:
    server.add("owner/tiny", request.getfixturevalue(repository))
    entry = local_folder("hf:owner/tiny", hub)
    whole = content(entry)
    path = next(entry / name for name in reversed(RECORDS) if name in whole)
    record = json.loads(path.read_bytes())
    for key in record:
        path.write_text(json.dumps(record | {key: "other"}))
        list(cached_models())
        assert local_folder("hf:owner/tiny", hub) == entry
        assert content(entry) == whole, key


@pytest.mark.parametrize("repository", ["model", "peft_adapter"])
def test_any_value_in_a_record_is_one_line(
    server: "HubServer", hub: Hub, request: pytest.FixtureRequest, repository: str
) -> None:
    server.add("owner/tiny", request.getfixturevalue(repository))
    entry = local_folder("hf:owner/tiny", hub)
    path = next(entry / name for name in reversed(RECORDS) if (entry / name).exists())
    record = json.loads(path.read_bytes())
    for key in record:
        for value in WRONG:
            path.write_text(json.dumps(record | {key: value}))
            for read in (check_fetched, known_rope):
                with suppress(ContextgraftError):
                    read(entry)


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_what_a_branch_named_is_asked_again(
    server: "HubServer", hub: Hub, model: dict[str, bytes], spoil: Any
) -> None:
    server.add("owner/tiny", model)
    entry = local_folder("hf:owner/tiny", hub)
    (kept,) = (cache_folder() / REVISIONS).iterdir()
    right = kept.read_bytes()
    kept.write_bytes(spoil(right))
    assert local_folder("hf:owner/tiny", hub) == entry
    assert kept.read_bytes() == right
