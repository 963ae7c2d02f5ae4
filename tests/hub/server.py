"""A hub on loopback: the endpoints that huggingface_hub's client uses, and faults on demand.

Two servers, as in the world: the hub itself, and a store of large files on another port that it redirects to.
Repositories live in memory; those of data sets are named datasets/OWNER/NAME.
Every request is logged; a fault is taken by the first requests that match it.
"""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any

from .endpoints import HUB, STORE
from .handler import Handler
from .repositories import LARGE, TOKEN, Fault, Files, Repo, Request, sha256


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


def _handler(hub: HubServer, routes: list[tuple[str, Callable[..., None]]]) -> type[Handler]:
    return type("Bound", (Handler,), {"hub": hub, "routes": routes})
