"""A hub that wants the token elsewhere, repeats it, lies about its files, or never ends."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi, close_session
from huggingface_hub.utils import get_session

from contextgraft.errors import ContextgraftError, InputError, SourceError
from contextgraft.sources.fetch import fetch
from contextgraft.sources.hub import client, guard
from contextgraft.sources.hub.client import DownloadProgress, Hub
from contextgraft.sources.hub.guard import redact, same_origin

TOKEN = "hf_SECRETSECRET123"
COMMIT = "a" * 40
INFO = {"id": "a/x", "sha": COMMIT, "siblings": [], "private": False}
Answer = Callable[[str, str], tuple[int, dict[str, str], bytes, str]]  # of a path and the token received


def ok(content: Any, **headers: str) -> tuple[int, dict[str, str], bytes, str]:
    return 200, headers, json.dumps(content).encode(), "OK"


class Server:
    """A server that answers as a test says, and keeps the Authorization of every request."""

    def __init__(self, answer: Answer) -> None:
        self.received: list[str | None] = []
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                outer.requests += 1
                outer.received.append(self.headers.get("Authorization"))
                status, headers, body, phrase = answer(self.path, str(self.headers.get("Authorization")))
                self.send_response(status, phrase)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Server]]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    servers: list[Server] = []

    def start(answer: Answer) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def hub_of(server: Server, lines: list[str]) -> Hub:
    progress = DownloadProgress(log=lines.append)
    return Hub(HfApi(endpoint=server.url), progress, retry_delays=(0, 0))


def refused(
    server: Server,
    tmp_path: Path,
    source: str = "hf:a/x",
    kind: type[ContextgraftError] = ContextgraftError,
) -> str:
    """The line with which a fetch ends; the token is in no line and in no file."""
    lines: list[str] = []
    with pytest.raises(kind) as error:
        fetch(source, tmp_path / "out", hub=hub_of(server, lines))
    said = "\n".join([str(error.value), *lines])
    assert TOKEN not in said
    assert "\n" not in str(error.value)
    assert not any(TOKEN in path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    return str(error.value)


def test_a_list_that_continues_on_another_host_is_refused(
    serve: Callable[[Answer], Server], tmp_path: Path
) -> None:
    other = serve(lambda *_: ok([]))
    link = f'<{other.url}/api/next>; rel="next"'
    server = serve(lambda path, _: ok([], Link=link) if "/tree/" in path else ok(INFO))
    assert "another host" in refused(server, tmp_path, "hf:datasets/a/x")
    assert TOKEN in str(server.received)
    assert not other.received


def test_a_redirect_to_another_host_gets_no_token(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    other = serve(lambda *_: ok(INFO))
    server = serve(lambda path, _: (307, {"Location": other.url + path}, b"", "x"))
    refused(server, tmp_path)
    assert other.received
    assert not any(other.received)


ECHOES: dict[str, Callable[[str], tuple[int, dict[str, str], bytes, str]]] = {
    "message": lambda got: (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": f"got {got}"}, b"", "x"),
    "body": lambda got: (400, {}, json.dumps({"error": f"you sent {got}"}).encode(), "x"),
    "escaped body": lambda got: (
        400, {}, json.dumps({"error": got}).replace("hf_", "\\u0068f_").encode(), "x"
    ),
    "reason": lambda got: (503, {}, b"", f"no {got}"),
    "delay": lambda got: (404, {"Retry-After": got}, b"", "x"),
    "address": lambda got: (302, {"Location": f"http://{got.rpartition(' ')[2]}.invalid/x"}, b"", "x"),
    "name of a file": lambda got: ok({**INFO, "siblings": [{"rfilename": got}]}),
    "revision": lambda got: ok({**INFO, "sha": got}),
    "licence": lambda got: ok({**INFO, "cardData": {"license": got}}),
}  # fmt: skip


@pytest.mark.parametrize("name", ECHOES)
def test_a_token_that_is_sent_back_is_in_no_line(
    serve: Callable[[Answer], Server], tmp_path: Path, name: str
) -> None:
    refused(serve(lambda _, got: ECHOES[name](got)), tmp_path)


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("cut", [None, 10])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_token_that_is_sent_back_in_a_file_stays_in_no_folder(
    serve: Callable[[Answer], Server], tmp_path: Path, name: str, cut: int | None
) -> None:
    """Whole, or in two connections."""
    data = b"\0" * 8 + TOKEN.encode() + b"\0" * 2000
    config = b"{}"
    contents = {"config.json": config, "model.safetensors": data} | {name: data}
    listed = [
        {"rfilename": file, "size": len(raw), "blobId": git_sha1(raw)} for file, raw in contents.items()
    ]
    begun: list[str] = []

    def answer(path: str, _: str) -> tuple[int, dict[str, str], bytes, str]:
        if path.startswith("/api/"):
            return ok({**INFO, "siblings": listed})
        raw = contents[path.rpartition("/")[2]]
        if path in begun:
            return 206, {"Content-Range": f"bytes {cut}-{len(raw) - 1}/{len(raw)}"}, raw[cut:], "OK"
        begun.append(path)
        end = cut if raw is data else None
        return 200, {"Content-Length": str(len(raw))}, raw[:end], "OK"

    line = refused(serve(answer), tmp_path, kind=SourceError)
    assert "holds your access token" in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"SECRET" in path.read_bytes()]


FILE = {"rfilename": "config.json", "size": 1, "blobId": "b" * 40}
LIES: dict[str, dict[str, Any]] = {
    "size is text": {**FILE, "size": "big"},
    "size is true": {**FILE, "size": True},
    "size is a fraction": {**FILE, "size": 1.5},
    "no name": {**FILE, "rfilename": None},
    "name is a list": {**FILE, "rfilename": ["a"]},
    "digest is a number": {**FILE, "blobId": 7},
    "digest is a path": {**FILE, "blobId": "../x"},
    "lfs without keys": {**FILE, "lfs": {}},
    "lfs of text": {**FILE, "lfs": {"size": "1", "sha256": "b" * 64, "pointerSize": 1}},
    "lfs is a list": {**FILE, "lfs": [1]},
}


@pytest.mark.parametrize("name", LIES)
def test_a_list_of_other_values_is_one_line(
    serve: Callable[[Answer], Server], tmp_path: Path, name: str
) -> None:
    entry = LIES[name]
    refused(serve(lambda *_: ok({**INFO, "siblings": [entry]})), tmp_path)
    listed = {
        "path" if key == "rfilename" else "oid" if key == "blobId" else key: entry[key] for key in entry
    }
    server = serve(lambda path, _: ok([{"type": "file", **listed}]) if "/tree/" in path else ok(INFO))
    refused(server, tmp_path, "hf:datasets/a/x")


def test_json_of_gigabytes_is_not_downloaded(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    names = ("config.json", "model.safetensors.index.json")
    listed = [{**FILE, "rfilename": name, "size": 10**10} for name in names]
    server = serve(lambda *_: ok({**INFO, "siblings": listed}))
    assert "index.json: too large for JSON" in refused(server, tmp_path)
    assert server.requests == 1


def test_pages_without_end_are_refused(
    serve: Callable[[Answer], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_PAGES", 20)
    server = serve(
        lambda path, _: (
            ok([], Link=f'<{server.url}/api/tree/next>; rel="next"') if "/tree/" in path else ok(INFO)
        )
    )
    assert "does not end" in refused(server, tmp_path, "hf:datasets/a/x", InputError)
    assert server.requests < 30


def test_another_commit_than_the_requested_one_is_refused(
    serve: Callable[[Answer], Server], tmp_path: Path
) -> None:
    server = serve(lambda *_: ok({**INFO, "siblings": [FILE]}))
    wanted = "e" * 40
    for source in (f"hf:a/x@{wanted}", f"hf:datasets/a/x@{wanted}"):
        assert f"another commit; expected {wanted}" in refused(server, tmp_path, source, SourceError)


def test_lists_of_too_many_files_are_refused(
    serve: Callable[[Answer], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_FILES", {"model": 30, "dataset": 30})
    names = [f"{number}.txt" for number in range(31)]
    server = serve(lambda *_: ok({**INFO, "siblings": [{**FILE, "rfilename": name} for name in names]}))
    assert "too many files; expected at most 30" in refused(server, tmp_path, kind=InputError)

    def pages(path: str, _: str) -> tuple[int, dict[str, str], bytes, str]:
        entries = [
            {"type": "file", "path": f"{path[-9:]}{name}", "size": 1, "oid": "b" * 40} for name in names[:9]
        ]
        following = f"{endless.url}/api/tree/{len(endless.received)}"
        return ok(entries, Link=f'<{following}>; rel="next"') if "tree" in path else ok(INFO)

    endless = serve(pages)
    assert "too many files" in refused(endless, tmp_path, "hf:datasets/a/x", InputError)
    assert endless.requests == 5


DELAYS = {
    "7": 7, "0": 0, "": None, "-5": None, "nan": None, "inf": None, "1e9": None, "0.5": None, "-0000": None,
    "9" * 4000: float("inf"), "Wed, 21 Oct 2015 07:28:00 GMT": 0, "21 Oct 2015 07:28:00 -0000": 0,
    "Fri, 31 Dec 9999 23:59:59 -1200": None, "1 Jan 2000 00:00:00 +9999": None, "\u0665": None,
}  # fmt: skip


@pytest.mark.parametrize("value", DELAYS)
def test_requested_delays(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")  # a date without a zone is of UTC everywhere
    response = SimpleNamespace(status_code=503, headers={"Retry-After": value})
    delay = guard.requested_delay(response)  # type: ignore[arg-type]
    assert delay == DELAYS[value] or (delay is not None and delay > 1e9 and "9999" in value)


def test_a_rate_limit_of_4000_digits_is_none() -> None:
    response = SimpleNamespace(status_code=429, headers={"ratelimit": f'"api";r=0;t={"9" * 4000}'})
    assert guard.requested_delay(response) is None  # type: ignore[arg-type]


def test_an_answer_without_end_is_refused(
    serve: Callable[[Answer], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MAX_ANSWER", 10_000)
    assert "more than 10,000 bytes" in refused(serve(lambda *_: ok("x" * 100_000)), tmp_path)
    packed = serve(lambda *_: (200, {"Content-Encoding": "gzip"}, b"x", "OK"))
    assert "not requested" in refused(packed, tmp_path)


def test_texts_that_look_like_tokens_are_hidden() -> None:
    for text in ("Bearer abc.def", "basic%20abcdef", "hf_abcdefghij", "https://me:pass@host/x"):
        assert "***" in redact(text)
        assert "abc" not in redact(text)
        assert "pass" not in redact(text)


def test_a_client_that_is_made_anew_is_guarded_too(serve: Callable[[Answer], Server]) -> None:
    """huggingface_hub closes its client when a connection fails, and goes on with another."""
    other, server = serve(lambda *_: ok({})), serve(lambda *_: ok({}))
    guard.guard_session(server.url)
    close_session()
    for url in (server.url, other.url):
        get_session().get(url, headers={"Authorization": f"Bearer {TOKEN}"})
    assert server.received == [f"Bearer {TOKEN}"]
    assert other.received == [None]


def test_origins() -> None:
    assert same_origin("https://hub/x", "http://hub")
    assert same_origin("http://hub:80/x", "http://hub")
    for other in (
        "http://hub.evil",
        "http://hub:81",
        "http://evil/hub",
        "http://hub@evil",
        "//hub",
        "http://[x",
    ):
        assert not same_origin(other, "http://hub")
    assert not same_origin("http://hub", "https://hub")


def test_the_error_is_about_the_hub(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    server = serve(lambda *_: ok({**INFO, "siblings": [{**FILE, "size": "big"}]}))
    with pytest.raises(SourceError, match="not that of a hub"):
        fetch("hf:a/x", tmp_path / "out", hub=hub_of(server, []))
