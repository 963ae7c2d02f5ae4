"""A model without its weights: what it is, before anything large is fetched."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from contextgraft.adapter.analysis.model_summary import summary
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import CheckpointError, InputError
from contextgraft.sources.fetch import fetch
from contextgraft.sources.hub import headers
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.hub.headers import open_headers

if TYPE_CHECKING:
    from tests.hub.server import HubServer

SOURCE = "hf:owner/tiny"
SHARD = "model-00001-of-00003.safetensors"


def test_headers_tell_what_the_whole_model_would(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path
) -> None:
    commit = server.add("owner/tiny", model)
    record = fetch(SOURCE, tmp_path / "headers", hub=hub, headers=True)
    shards = sum(len(data) for name, data in model.items() if name.endswith(".safetensors"))
    ranges = {each.range for each in server.requests("GET /lfs/")}
    assert all(text is not None and text.startswith("bytes=0-") for text in ranges)
    fetch(SOURCE, tmp_path / "whole", hub=hub)
    known, whole = open_headers(tmp_path / "headers"), open_model(tmp_path / "whole")
    assert (known.tensors, known.weight_map, known.config) == (whole.tensors, whole.weight_map, whole.config)
    assert summary(known)["parameters"] == summary(whole)["parameters"]
    assert (record["kind"], record["revision"]) == ("headers", commit)
    kept = sum(path.stat().st_size for path in (tmp_path / "headers").iterdir())
    assert kept < shards / 4
    with pytest.raises(CheckpointError):
        open_model(tmp_path / "headers")


@pytest.mark.parametrize("whole", [False, True])
def test_a_header_longer_than_the_first_request_is_fetched_in_two(
    *,
    server: "HubServer",
    hub: Hub,
    toy: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: bool,
) -> None:
    monkeypatch.setattr(headers, "FIRST_BYTES", 100)
    folder = toy.write(tmp_path / "single", toy.weights(toy.config()), toy.config())
    server.add("owner/tiny", toy.contents(folder))
    if whole:
        server.fault("GET /lfs/", whole=True, times=2)
    fetch(SOURCE, tmp_path / "out", hub=hub, headers=True)
    assert open_headers(tmp_path / "out").tensors == open_model(folder).tensors
    assert len(server.requests("GET /lfs/")) == 2


def test_what_goes_wrong_is_mended_or_said(
    server: "HubServer", hub: Hub, model: dict[str, bytes], heard: Any, tmp_path: Path
) -> None:
    server.add("owner/tiny", model)
    server.fault("GET /lfs/", cut=50)
    server.fault("GET /lfs/", cut=50, silent=True)
    server.fault("GET /lfs/", status=503)
    fetch(SOURCE, tmp_path / "out", hub=hub, headers=True)
    assert len(heard.lines) == 3
    server.fault("resolve/.*safetensors$", status=401, headers={"X-Error-Code": "GatedRepo"}, times=9)
    with pytest.raises(InputError, match="is gated"):
        fetch(SOURCE, tmp_path / "gated", hub=hub, headers=True)


BAD: dict[str, tuple[bytes, str]] = {
    "no safetensors": (b"PK\x03\x04" * 100, "not a well-formed safetensors file"),
    "empty": (b"", "not a well-formed safetensors file"),
    "no JSON": ((64).to_bytes(8, "little") + b"x" * 100, "not a well-formed safetensors file"),
}


@pytest.mark.parametrize("name", BAD)
def test_headers_are_not_trusted(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    data, message = BAD[name]
    server.add("owner/tiny", model | {SHARD: data})
    with pytest.raises(CheckpointError, match=message) as error:
        fetch(SOURCE, tmp_path / "out", hub=hub, headers=True)
    assert "/tmp/tmp" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_headers_that_was_changed_is_refused(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path
) -> None:
    server.add("owner/tiny", model)
    fetch(SOURCE, tmp_path / "out", hub=hub, headers=True)
    sidecar = tmp_path / "out/contextgraft.json"
    record = json.loads(sidecar.read_text())
    record["files"][SHARD]["bytes"] += 1
    sidecar.write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="does not match its header"):
        open_headers(tmp_path / "out")
    del record["files"][SHARD]
    sidecar.write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"the size of .* is missing or malformed"):
        open_headers(tmp_path / "out")
