"""A hub on loopback: the endpoints that huggingface_hub's client uses, and faults on demand.

Two servers, as in the world: the hub itself, and a store of large files on another port that it redirects to.
Repositories live in memory; those of data sets are named datasets/OWNER/NAME.
Every request is logged; a fault is taken by the first requests that match it.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_secret_of_the_tests"
LARGE = (".safetensors", ".bin", ".gguf", ".model", ".parquet")  # stored as LFS
PIECE = 1 << 14  # bytes sent at once
DRIP = 0.05  # seconds between single bytes
PAGE = 3  # files in one answer of a tree

Files = dict[str, bytes]


@dataclass
class Repo:
    """A repository: files by commit, commits by branch. `private` wants a token, `gated` gives no content."""

    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: Files, branch: str = "main") -> str:
        """Record a new state of a branch; its id follows from its content."""
        text = repr(sorted((name, sha256(data)) for name, data in files.items())) + branch
        oid = hashlib.sha1(f"{text}{len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch or a commit id names."""
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass
class Fault:
    """What goes wrong with requests whose "METHOD path" matches `where`, the next `times` times.

    `status` answers with that and `headers`; else the body is sent with the byte at `flip` changed, cut after
    `cut` bytes (declared in full, or not at all with `silent`), `slow` seconds a piece, byte by byte after
    `drip` bytes so that it never ends, longer by `more`, or whole although a range was requested.
    """

    where: str
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    silent: bool = False
    flip: int | None = None
    slow: float = 0.0
    drip: int | None = None
    more: bytes = b""
    whole: bool = False


@dataclass(frozen=True)
class Request:
    """One request as it came in, and the port it came to."""

    line: str
    range: str | None
    authorization: str | None
    port: int


class HubServer:
    """The hub: its repositories, its store of large files, its faults, its log."""

    token = TOKEN

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.store: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[Request] = []
        self.sent = 0  # bytes of bodies of files
        self.cards: list[str] = []
        self.lock = threading.Lock()
        self.web = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, HUB))
        self.cdn = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, STORE))

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.web.server_port}"

    @property
    def store_url(self) -> str:
        """Where large files are."""
        return f"http://127.0.0.1:{self.cdn.server_port}"

    def add(self, name: str, files: Files, **how: Any) -> str:
        """A new repository with one commit on main; its id."""
        self.repos[name] = Repo(**how)
        return self.update(name, files)

    def update(self, name: str, files: Files, branch: str = "main") -> str:
        """A new commit."""
        for path, data in files.items():
            if path.endswith(LARGE):
                self.store[sha256(data)] = data
        return self.repos[name].commit(files, branch)

    def fault(self, where: str, **how: Any) -> None:
        """Let something go wrong."""
        self.faults.append(Fault(where, **how))

    def requests(self, pattern: str) -> list[Request]:
        """Logged requests whose "METHOD path" matches."""
        return [each for each in self.log if re.search(pattern, each.line)]

    def take(self, line: str) -> Fault:
        """The fault for a request, or one that does nothing."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.where, line):
                    fault.times -= 1
                    return fault
        return Fault("")

    @contextmanager
    def running(self) -> Iterator["HubServer"]:
        """Serve in threads of this process until the block ends."""
        servers = (self.web, self.cdn)
        threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            for server, thread in zip(servers, threads, strict=True):
                server.shutdown()
                server.server_close()
                thread.join()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Refusal(Exception):  # noqa: N818 - what the server does
    """An answer that is an error, with the headers by which the client distinguishes errors."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message}


class Handler(BaseHTTPRequestHandler):
    """One request; `routes` are (pattern of "METHOD path", function of handler and groups)."""

    protocol_version = "HTTP/1.1"
    hub: HubServer
    routes: list[tuple[str, Callable[..., None]]]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: the log is kept."""

    def handle_one_request(self) -> None:
        """A client that hangs up in the middle is no news."""
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


def info(handler: Handler, name: str, *rest: Any) -> None:
    revision = rest[0] if len(rest) > 1 else "main"
    repo = handler.repo(name)
    commit, files = handler.files(repo, revision)
    siblings = [sibling(path, data, "blobs" in handler.query) for path, data in sorted(files.items())]
    handler.json(
        {
            "id": name, "modelId": name, "sha": commit, "private": repo.private,
            "gated": "manual" if repo.gated else False, "siblings": siblings, "tags": [],
            "cardData": card_data(files.get("README.md", b"")),
        }
    )  # fmt: skip


def card_data(readme: bytes) -> dict[str, Any] | None:
    """The metadata of the model card, which the hub parses."""
    parts = readme.decode().split("---\n")
    return yaml.safe_load(parts[1]) if len(parts) > 2 else None


def sibling(path: str, data: bytes, blobs: bool) -> dict[str, Any]:
    large = path.endswith(LARGE)
    lfs = {"lfs": {"size": len(data), "sha256": sha256(data), "pointerSize": 130}} if large else {}
    facts = {"size": len(data), "blobId": sha256(data)[:40] if large else git_sha1(data), **lfs}
    return {"rfilename": path, **(facts if blobs else {})}


def tree(handler: Handler, name: str, revision: str, body: bytes) -> None:
    """Files and folders of a data set, a page of them at a time."""
    _, files = handler.files(handler.repo(name), revision)
    folders = sorted({path.rpartition("/")[0] for path in files} - {""})
    entries: list[dict[str, Any]] = [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders]
    for path, data in sorted(files.items()):
        facts = sibling(path, data, blobs=True)
        lfs = {"lfs": {"oid": sha256(data), **facts["lfs"]}} if "lfs" in facts else {}
        entries.append({"type": "file", "path": path, "size": len(data), "oid": facts["blobId"], **lfs})
    begin = int(handler.query.get("cursor", ["0"])[0])
    rest = begin + PAGE < len(entries)
    address = f"{handler.hub.url}{urlsplit(handler.path).path}?recursive=True&cursor={begin + PAGE}"
    headers = {"Link": f'<{address}>; rel="next"'} if rest else {}
    handler.answer(200, json.dumps(entries[begin : begin + PAGE]).encode(), headers)


def resolve(handler: Handler, name: str, revision: str, path: str, body: bytes) -> None:
    repo = handler.repo(name, content=True)
    commit, files = handler.files(repo, revision)
    if path not in files:
        raise Refusal(404, "EntryNotFound", "Entry not found")
    data = files[path]
    if path.endswith(LARGE):
        handler.answer(
            302,
            headers={
                "Location": f"{handler.hub.store_url}/lfs/{sha256(data)}",
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{sha256(data)}"',
                "X-Linked-Size": str(len(data)),
            },
        )  # fmt: skip
    else:
        handler.content(data, {"X-Repo-Commit": commit, "ETag": f'"{git_sha1(data)}"'})


def stored(handler: Handler, oid: str, body: bytes) -> None:
    if oid not in handler.hub.store:
        raise Refusal(404, "", "no such object")
    handler.content(handler.hub.store[oid], {"ETag": f'"{oid}"'})


def create(handler: Handler, body: bytes) -> None:
    wanted = json.loads(body)
    if handler.headers.get("Authorization") != f"Bearer {TOKEN}":
        raise Refusal(401, "", "Invalid username or password.")
    name = f"{wanted['organization']}/{wanted['name']}"
    if name in handler.hub.repos:
        handler.json({"url": f"{handler.hub.url}/{name}", "error": "You already created this repo"}, 409)
        return
    handler.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
    handler.hub.repos[name].private = wanted.get("visibility") == "private" or wanted.get("private") is True
    handler.json({"url": f"{handler.hub.url}/{name}"})


def branch(handler: Handler, name: str, new: str, body: bytes) -> None:
    repo = handler.repo(name, write=True)
    if new in repo.branches:
        raise Refusal(409, "", "Reference already exists")
    repo.branches[new] = repo.branches["main"]
    handler.json({})


def validate(handler: Handler, body: bytes) -> None:
    content = json.loads(body)["content"]
    handler.hub.cards.append(content)
    good = content.startswith("---\n")
    handler.json(
        {"errors": [] if good else [{"message": "no metadata"}], "warnings": []}, 200 if good else 400
    )


def preupload(handler: Handler, name: str, revision: str, body: bytes) -> None:
    _, files = handler.files(handler.repo(name, write=True), revision)
    modes = [
        {
            "path": file["path"],
            "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
            "shouldIgnore": False,
            "oid": held_oid(file["path"], files),
        }
        for file in json.loads(body)["files"]
    ]
    handler.json({"files": modes})


def held_oid(path: str, files: Files) -> str | None:
    if path not in files:
        return None
    return sha256(files[path]) if path.endswith(LARGE) else git_sha1(files[path])


def batch(handler: Handler, name: str, body: bytes) -> None:
    handler.repo(name, write=True)
    objects = []
    for each in json.loads(body)["objects"]:
        upload = {"href": f"{handler.hub.store_url}/upload/{each['oid']}"}
        verify = {"href": f"{handler.hub.url}/verify/{each['oid']}"}
        missing = each["oid"] not in handler.hub.store
        objects.append({**each, **({"actions": {"upload": upload, "verify": verify}} if missing else {})})
    handler.json({"transfer": "basic", "objects": objects})


def upload(handler: Handler, oid: str, body: bytes) -> None:
    if sha256(body) != oid:
        raise Refusal(400, "", "the content is not that of its id")
    handler.hub.store[oid] = body
    handler.answer(200)


def verified(handler: Handler, oid: str, body: bytes) -> None:
    handler.answer(200 if oid in handler.hub.store else 404)


def commit(handler: Handler, name: str, revision: str, body: bytes) -> None:
    repo = handler.repo(name, write=True)
    _, before = handler.files(repo, revision)
    files = dict(before)
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = handler.hub.store[value["oid"]]
    oid = handler.hub.update(name, files, revision)
    handler.json({"commitUrl": f"{handler.hub.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})


NAME = "([^/]+/[^/]+)"
DATASET = "(datasets/[^/]+/[^/]+)"
HUB: list[tuple[str, Callable[..., None]]] = [
    (f"GET /api/models/{NAME}", info),
    (f"GET /api/models/{NAME}/revision/([^/]+)", info),
    (f"GET /api/{DATASET}", info),
    (f"GET /api/{DATASET}/revision/([^/]+)", info),
    (f"GET /api/{DATASET}/tree/([^/]+)", tree),
    (f"(?:GET|HEAD) /(?:{NAME}|{DATASET})/resolve/([^/]+)/(.+)", resolve),
    ("POST /api/repos/create", create),
    ("POST /api/validate-yaml", validate),
    (f"POST /api/models/{NAME}/branch/([^/]+)", branch),
    (f"POST /api/models/{NAME}/preupload/([^/]+)", preupload),
    (rf"POST /{NAME}\.git/info/lfs/objects/batch", batch),
    ("POST /verify/(.+)", verified),
    (f"POST /api/models/{NAME}/commit/([^/]+)", commit),
]
STORE: list[tuple[str, Callable[..., None]]] = [
    ("GET /lfs/(.+)", stored),
    ("PUT /upload/(.+)", upload),
]


def _handler(hub: HubServer, routes: list[tuple[str, Callable[..., None]]]) -> type[Handler]:
    return type("Bound", (Handler,), {"hub": hub, "routes": routes})
