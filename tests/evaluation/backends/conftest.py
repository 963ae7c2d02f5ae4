"""A small OpenAI-compatible server on loopback that runs a real tiny model; it takes prompts as token ids."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from contextgraft.evaluation.backends.base import cut_at_stop
from contextgraft.evaluation.backends.loading import find_device, load_model
from contextgraft.evaluation.backends.tokenizer import load_tokenizer


@dataclass
class Completions:
    """Greedy completions of one folder's model, which answers to `name`; longer prompts are an error 500."""

    folder: Path
    name: str
    longest: int = 1_000_000
    prompts: list[list[int]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self.model = load_model(self.folder, find_device("cpu"), "float32")
        self.tokens = load_tokenizer(self.folder)
        self.lock = threading.Lock()

    def respond(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body of one request."""
        if request["model"] != self.name:
            return 404, {"error": f"The model {request['model']} does not exist."}
        prompts = request["prompt"] if isinstance(request["prompt"][0], list) else [request["prompt"]]
        if any(len(ids) > self.longest for ids in prompts):
            return 500, {"error": "out of memory"}
        with self.lock:
            self.prompts += prompts
            texts = [self.complete(ids, request) for ids in prompts]
        return 200, {"choices": [{"index": n, "text": text} for n, text in enumerate(texts)]}

    def complete(self, ids: list[int], request: dict[str, Any]) -> str:
        """The greedy continuation of one prompt."""
        assert request["temperature"] == 0
        with torch.inference_mode():
            out = self.model.generate(
                torch.tensor([ids]), max_new_tokens=request["max_tokens"], do_sample=False, pad_token_id=0
            )
        return cut_at_stop(self.tokens.decode(out[0, len(ids) :].tolist()), request["stop"])

    @contextmanager
    def running(self) -> Iterator[str]:
        """The URL of a server that runs until the block ends."""
        server = Server(("127.0.0.1", 0), handler(self))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}/v1/completions"
        try:
            yield self.url
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class Server(ThreadingHTTPServer):
    """Takes it that clients go away when another of their requests was refused."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def handler(completions: Completions) -> type[BaseHTTPRequestHandler]:
    """How a server talks about completions."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            completions.headers.append(dict(self.headers))
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = completions.respond(request)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in http.server
            """Say nothing."""

    return Handler


@pytest.fixture
def completions() -> type[Completions]:
    """What a server answers with."""
    return Completions
