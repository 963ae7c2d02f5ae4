"""How the hub on loopback answers one request: with the content of a file, JSON, an error, or a fault."""

import json
import re
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from .repositories import TOKEN, Files, Repo, Request

if TYPE_CHECKING:
    from .server import HubServer

PIECE = 1 << 14  # bytes sent at once
DRIP = 0.05  # seconds between single bytes


class Refusal(Exception):  # noqa: N818 - what the server does
    """An answer that is an error, with the headers by which the client distinguishes errors."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message}


class Handler(BaseHTTPRequestHandler):
    """One request; `routes` are (pattern of "METHOD path", function of handler and groups)."""

    protocol_version = "HTTP/1.1"
    hub: "HubServer"
    routes: list[tuple[str, Callable[..., None]]]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: the log is kept."""

    def handle_one_request(self) -> None:
        """A client that closes the connection in the middle is not an error."""
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do(self) -> None:
        """Log the request, take its fault if there is one, else answer."""
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        line = f"{self.command} {unquote(url.path)}"
        body = self.read_body()
        port = self.server.server_port if isinstance(self.server, ThreadingHTTPServer) else 0
        given = self.headers.get("Authorization")
        self.hub.log.append(Request(line, self.headers.get("Range"), given, port))
        self.fault = self.hub.take(line)
        try:
            if self.fault.status is not None:
                self.answer(self.fault.status, self.fault.body, self.fault.headers)
                return
            for pattern, route in self.routes:
                # revisions may hold slashes, which the client quotes: match before unquoting
                if match := re.fullmatch(pattern, f"{self.command} {url.path}"):
                    route(self, *[unquote(group) for group in match.groups() if group], body)
                    return
            raise Refusal(404, "", f"no route for {line}")
        except Refusal as refusal:
            self.answer(refusal.status, b"", refusal.headers)

    do_GET = do_HEAD = do_POST = do_PUT = do

    def read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, content: Any, status: int = 200) -> None:
        self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def content(self, data: bytes, headers: dict[str, str]) -> None:
        """A file, or the requested range of it, with the faults of a bad line."""
        fault, size = self.fault, len(data)
        if fault.flip is not None:
            data = data[: fault.flip] + bytes([data[fault.flip] ^ 1]) + data[fault.flip + 1 :]
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin = 0
        if match and not fault.whole:
            begin, end = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
            data = data[begin:end]
            headers = headers | {"Content-Range": f"bytes {begin}-{end - 1}/{size}"}
        data += fault.more
        declared = {} if fault.silent else {"Content-Length": str(len(data))}
        closing = {"Connection": "close"} if fault.silent else {}
        self.send_response(206 if match and not fault.whole else 200)
        for key, value in (headers | declared | closing).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        data = data[: fault.cut]
        start, drip = 0, len(data) if fault.drip is None else fault.drip
        while start < len(data):
            size, pause = (PIECE, fault.slow) if start < drip else (1, DRIP)
            piece = data[start : start + size]
            self.wfile.write(piece)
            with self.hub.lock:
                self.hub.sent += len(piece)
            time.sleep(pause)
            start += size
        self.close_connection = fault.silent or fault.cut is not None

    def repo(self, name: str, *, write: bool = False, content: bool = False) -> Repo:
        """The repository, if this request may have it."""
        repo = self.hub.repos.get(name)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if write and not known:
            raise Refusal(401, "", "Invalid username or password.")
        if repo is None or (repo.private and not known):
            raise Refusal(404 if known else 401, "RepoNotFound", "Repository not found")
        if content and repo.gated:
            message = f"Access to model {name} is restricted and you are not in the authorized list."
            raise Refusal(403 if known else 401, "GatedRepo", message)
        return repo

    def files(self, repo: Repo, revision: str) -> tuple[str, Files]:
        commit = repo.resolve(revision)
        if commit is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repo.commits[commit]
