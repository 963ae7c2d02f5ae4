"""What a hub, a line or a disk can do wrong while a model is fetched, and what is said about it."""

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import HfApi

from contextgraft.errors import CheckpointError, ContextgraftError, InputError, OutputError, SourceError
from contextgraft.sources.fetch import fetch
from contextgraft.sources.hub.client import Hub

from .conftest import ended

if TYPE_CHECKING:
    from tests.hub.server import HubServer

SOURCE = "hf:owner/tiny"
SHARD = "model-00002-of-00003.safetensors"
ANY_SHARD = "GET /lfs/"


def same_shards(out: Path, model: dict[str, bytes]) -> bool:
    """Whether every shard came out as it is on the hub."""
    shards = [name for name in model if name.endswith(".safetensors")]
    return all((out / name).read_bytes() == model[name] for name in shards)


MENDED: dict[str, dict[str, Any]] = {
    "cut in the middle": {"where": ANY_SHARD, "cut": 20_000},
    "cut without a length": {"where": ANY_SHARD, "cut": 20_000, "silent": True},
    "cut at once": {"where": ANY_SHARD, "cut": 0},
    "500": {"where": ANY_SHARD, "status": 500, "times": 2},
    "503 of the hub": {"where": "GET /owner/tiny/resolve", "status": 503, "times": 2},
    "502 of the list": {"where": "GET /api/models", "status": 502, "times": 2},
    "429": {"where": ANY_SHARD, "status": 429, "headers": {"Retry-After": "0"}, "times": 3},
    "429 of the list": {"where": "GET /api/models", "status": 429, "headers": {"Retry-After": "0"}},
    "429 by ratelimit": {"where": ANY_SHARD, "status": 429, "headers": {"RateLimit": '"api";r=0;t=0'}},
    "a flipped byte": {"where": ANY_SHARD, "flip": 9_000},
    "a byte too much": {"where": ANY_SHARD, "more": b"x"},
    "a flipped byte of a small file": {"where": "resolve/.*/config.json", "flip": 2},
}


@pytest.mark.parametrize("name", MENDED)
def test_what_passes_is_waited_for_and_said(
    *, server: "HubServer", hub: Hub, model: dict[str, bytes], heard: Any, tmp_path: Path, name: str
) -> None:
    server.add("owner/tiny", model)
    server.fault(**MENDED[name])
    fetch(SOURCE, tmp_path / "out", hub=hub)
    assert same_shards(tmp_path / "out", model)
    assert len(heard.lines) == MENDED[name].get("times", 1)
    assert all("retry in 0 s" in line or "downloaded once more" in line for line in heard.lines)


def test_a_cut_transfer_goes_on_where_it_stopped(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path
) -> None:
    server.add("owner/tiny", model)
    server.fault(ANY_SHARD, cut=20_000, times=1)
    fetch(SOURCE, tmp_path / "out", hub=hub)
    assert [each.range for each in server.requests(ANY_SHARD) if each.range] == ["bytes=20000-"]
    shards = [name for name in model if name.endswith(".safetensors")]
    small = [
        name for name in (tmp_path / "out").rglob("*") if name.is_file() and name.suffix != ".safetensors"
    ]
    others = sum(path.stat().st_size for path in small if path.name != "contextgraft.json")
    assert server.sent == sum(len(model[name]) for name in shards) + others


def test_tries_are_counted_anew_while_bytes_arrive(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path
) -> None:
    server.add("owner/tiny", model)
    server.fault(ANY_SHARD, cut=4_000, times=12)
    fetch(SOURCE, tmp_path / "out", hub=hub)
    assert same_shards(tmp_path / "out", model)


def test_a_server_of_a_byte_for_each_connection_is_given_up(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path
) -> None:
    server.add("owner/tiny", model)
    server.fault(ANY_SHARD, cut=1, times=1000)
    with pytest.raises(SourceError, match="the connection fails repeatedly"):
        fetch(SOURCE, tmp_path / "out", hub=hub)
    assert len(server.requests(ANY_SHARD)) < 100


def test_a_server_that_falls_silent_is_retried(
    *,
    server: "HubServer",
    hub: Hub,
    model: dict[str, bytes],
    heard: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("contextgraft.sources.hub.download.TIMEOUT", 1)
    server.add("owner/tiny", model)
    server.fault(ANY_SHARD, slow=600)
    fetch(SOURCE, tmp_path / "out", hub=hub)
    assert same_shards(tmp_path / "out", model)
    assert [line for line in heard.lines if "timed out" in line and "retry in 0 s" in line]


def test_a_server_that_ignores_ranges_sends_all_again(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path
) -> None:
    server.add("owner/tiny", model)
    server.fault(ANY_SHARD, cut=20_000, times=3)
    server.fault(ANY_SHARD, whole=True, times=3)
    fetch(SOURCE, tmp_path / "out", hub=hub)
    assert same_shards(tmp_path / "out", model)


LOGIN = "hf auth login"
FINAL: dict[str, tuple[dict[str, Any], str]] = {
    "500 for ever": (
        {"where": ANY_SHARD, "status": 500},
        "hub returned status 500; run the same command again",
    ),
    "429 for ever": ({"where": ANY_SHARD, "status": 429}, "rate limit of the hub is reached"),
    "429 for an hour": (
        {"where": "GET /api/models", "status": 429, "headers": {"Retry-After": "3600"}},
        "waiting did not help; received Retry-After: 3600",
    ),
    "cut for ever": (
        {"where": ANY_SHARD, "cut": 0},
        "connection fails repeatedly; .*run the same command",
    ),
    "flipped for ever": (
        {"where": ANY_SHARD, "flip": 9_000},
        r"safetensors: the content differs from the digest on the hub, twice; "
        r"expected digest \w{64}; received",
    ),
    "401": (
        {
            "where": "resolve",
            "status": 401,
            "headers": {"X-Error-Message": "Invalid credentials in Authorization header"},
        },
        f"does not accept the token.*{LOGIN}",
    ),
    "403": ({"where": "resolve", "status": 403}, f"token does not allow this.*{LOGIN}"),
    "410": ({"where": "resolve", "status": 410}, "hub returned status 410"),
    "gone from the store": ({"where": ANY_SHARD, "status": 404}, "not found on the hub"),
    "no entry": (
        {"where": "resolve", "status": 404, "headers": {"X-Error-Code": "EntryNotFound"}},
        "the hub lists a file that it does not have",
    ),
    "disabled": (
        {
            "where": "resolve",
            "status": 403,
            "headers": {"X-Error-Message": "Access to this resource is disabled."},
        },
        "the hub disabled this repository",
    ),
    "a page to log in": (
        {"where": "GET /api", "status": 200, "body": b"<html>"},
        "not that of a hub.*network requires a login",
    ),
    "another service": (
        {"where": "GET /api", "status": 200, "body": b'{"id": "x"}'},
        "received no commit",
    ),
    "a list": ({"where": "GET /api", "status": 200, "body": b"[1]"}, "not that of a hub"),
    "files without digests": (
        {
            "where": "GET /api",
            "status": 200,
            "body": b'{"id": "x", "sha": "%s", "siblings": [{"rfilename": "config.json"},'
            b'{"rfilename": "model.safetensors"}]}' % (b"a" * 40),
        },
        "no size or no digest",
    ),
}

FOR_PEOPLE = {"401", "403", "disabled"}  # what trying again does not mend


@pytest.mark.parametrize("name", FINAL)
def test_what_does_not_pass_is_one_line_with_the_remedy(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    fault, message = FINAL[name]
    server.add("owner/tiny", model)
    server.fault(**fault, times=100)
    with pytest.raises(ContextgraftError, match=message) as error:
        fetch(SOURCE, tmp_path / "out", hub=hub)
    assert isinstance(error.value, InputError if name in FOR_PEOPLE else SourceError | CheckpointError)
    assert "\n" not in str(error.value)
    assert "127.0.0.1" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_repository_that_may_not_be_had(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path
) -> None:
    known = Hub(api=HfApi(endpoint=server.url, token=server.token), retry_delays=())
    server.add("owner/gated", model, gated=True)
    server.add("owner/private", model, private=True)
    said = {
        (
            "owner/gated",
            hub,
        ): f"the repository is gated: its owners decide about access; received .*authorized list.*{LOGIN}",
        ("owner/gated", known): f"is gated.*{LOGIN}",
        ("owner/private", hub): f"not found on the hub, or private.*{LOGIN}",
        ("owner/absent", hub): "not found on the hub, or private",
        ("owner/absent", known): "not found on the hub, or private",
        ("owner/private@v9", known): "revision not found.*hf:OWNER/NAME@REVISION",
    }
    for number, ((name, client), message) in enumerate(said.items()):
        with pytest.raises(InputError, match=message) as error:
            fetch(f"hf:{name}", tmp_path / str(number), hub=client)
        assert server.token not in str(error.value)
    assert [path.name for path in tmp_path.iterdir() if re.fullmatch(r"\d", path.name)] == []


def test_nobody_there_is_said_at_once(heard: Any, tmp_path: Path) -> None:
    nobody = Hub(api=HfApi(endpoint="http://127.0.0.1:9", token=False), retry_delays=(60,))
    with pytest.raises(SourceError, match=r"cannot be reached; received .*HF_ENDPOINT"):
        fetch(SOURCE, tmp_path / "out", hub=nobody)
    odd = Hub(api=HfApi(endpoint="ftp://127.0.0.1", token=False), retry_delays=(60,))
    with pytest.raises(SourceError, match="cannot be reached"):
        fetch(SOURCE, tmp_path / "out", hub=odd)


def test_a_disk_without_room_is_refused_before_the_weights(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("owner/tiny", model)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with pytest.raises(OutputError, match=r"not enough disk space; expected [\d,]+ bytes free; received 100"):
        fetch(SOURCE, tmp_path / "out", hub=hub)
    assert server.requests(ANY_SHARD) == []


def test_a_disk_that_fills_up_keeps_what_there_is(
    *,
    server: "HubServer",
    hub: Hub,
    model: dict[str, bytes],
    heard: Any,
    start: Callable[..., Any],
    tmp_path: Path,
) -> None:
    server.add("owner/tiny", model)
    full = ended(start("fetch", SOURCE, "--out", tmp_path / "out", largest=20_000))
    assert re.search(r"out: cannot be written; received File too large; free disk space", full.complaint())
    fetch(SOURCE, tmp_path / "out", hub=hub)
    assert heard.plans[0].present > 20_000
    assert any(each.range == "bytes=20000-" for each in server.requests(ANY_SHARD))
    assert same_shards(tmp_path / "out", model)


SMALL = (
    "config.json",
    "tokenizer_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "LICENSE",
    "chat_template.jinja",
    "additional_chat_templates/tools.jinja",
)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_fetch_asks_only_for_the_rest(
    *,
    server: "HubServer",
    model: dict[str, bytes],
    start: Callable[..., Any],
    hub: Hub,
    tmp_path: Path,
    blow: signal.Signals,
) -> None:
    server.add("owner/tiny", model)
    server.fault(ANY_SHARD, slow=600, times=3)  # one piece arrives, then nothing,
    server.fault(ANY_SHARD, cut=0, times=1000)  # nor by the next request
    process = start("fetch", SOURCE, "--out", tmp_path / "out", HF_HUB_DOWNLOAD_TIMEOUT="2")
    wait_for(lambda: all((tmp_path / ".out.partial" / name).exists() for name in SMALL))
    wait_for(lambda: len(parts(tmp_path)) == 3)
    process.send_signal(blow)
    done = ended(process)
    if blow == signal.SIGINT:
        assert done.status == 130
        assert done.stderr.splitlines()[-1].endswith("interrupted; run the same command again to resume")
    assert not (tmp_path / "out").exists()
    held = {size(path) for path in parts(tmp_path)}
    server.faults.clear()
    server.log.clear()
    fetch(SOURCE, tmp_path / "out", hub=hub)
    assert {each.range for each in server.requests(ANY_SHARD)} == {f"bytes={size}-" for size in held}
    assert len(server.requests("/resolve/")) == 3  # the small files are there
    assert same_shards(tmp_path / "out", model)


def test_a_commit_that_moved_on_begins_anew(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path
) -> None:
    server.add("owner/tiny", model)
    server.fault(ANY_SHARD, cut=20_000, times=100)
    server.fault(ANY_SHARD, status=500, times=100)
    impatient = Hub(api=hub.api, retry_delays=())
    with pytest.raises(SourceError):
        fetch(SOURCE, tmp_path / "out", hub=impatient)
    assert list(parts(tmp_path))
    server.faults.clear()
    new = server.update("owner/tiny", model | {"LICENSE": b"mine", SHARD: model[SHARD]})
    server.log.clear()
    assert fetch(SOURCE, tmp_path / "out", hub=hub)["revision"] == new
    assert {each.range for each in server.requests(ANY_SHARD)} == {None}


def fetch_a_part(server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path) -> None:
    """A fetch of which every shard ended early; the server has no fault any more."""
    server.add("owner/tiny", model)
    server.fault(ANY_SHARD, cut=20_000, times=100)
    with pytest.raises(SourceError):
        fetch(SOURCE, tmp_path / "out", hub=Hub(api=hub.api, retry_delays=()))
    server.faults.clear()


def test_files_that_exist_already_are_not_trusted(
    server: "HubServer", hub: Hub, model: dict[str, bytes], heard: Any, tmp_path: Path
) -> None:
    fetch_a_part(server, hub, model, tmp_path)
    for path in parts(tmp_path):
        path.write_bytes(b"x" * path.stat().st_size)
    fetch(SOURCE, tmp_path / "out", hub=hub)
    assert same_shards(tmp_path / "out", model)
    assert any("deleted and downloaded" in line for line in heard.lines)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "zeros": lambda raw: bytes(len(raw)),
    "cut": lambda raw: raw[: len(raw) // 3],
    "one byte": lambda raw: raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :],
    "empty": lambda raw: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_a_loss_of_power_spoiled_is_downloaded_again(
    server: "HubServer", hub: Hub, model: dict[str, bytes], tmp_path: Path, damage: str
) -> None:
    fetch_a_part(server, hub, model, tmp_path)
    unfinished = [path for path in (tmp_path / ".out.partial").rglob("*") if path.is_file() and size(path)]
    assert len(unfinished) > len(SMALL)
    for path in unfinished:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    fetch(SOURCE, tmp_path / "out", hub=hub)
    assert same_shards(tmp_path / "out", model)
    assert (tmp_path / "out" / "config.json").read_bytes() == model["config.json"]


def test_the_hub_switched_off_is_said(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="access to the hub is disabled; received HF_HUB_OFFLINE"):
        fetch(SOURCE, tmp_path / "out", hub=hub)


def parts(folder: Path) -> list[Path]:
    """Incomplete shards of an unfinished fetch to `folder / "out"`."""
    return [path for path in folder.glob(".out.partial/.journal/*.part") if size(path) > 10_000]


def size(path: Path) -> int:
    """Bytes of a file; 0 if it was renamed in the meantime."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when the condition is true."""
    until = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < until, "the condition did not become true"
        time.sleep(0.01)
