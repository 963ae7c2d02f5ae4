"""A tiny HTTP server with the command line of `vllm serve`, to test how a process is started and stopped.

It has no model: every completion is the same text, which `--text` gives. `--behaviour` is what else it does.
The file `--note` gets its pid, that of a worker process, and the words that it was started with. Standard
library only: it starts within a tenth of a second.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
parser.add_argument("--served-model-name")
parser.add_argument("--text", default="13 thank you")
parser.add_argument("--behaviour", default="")
parser.add_argument("--note", type=Path)
options, _ = parser.parse_known_args()

if options.behaviour == "fails":
    print("loading\nCUDA error: out of memory")
    sys.exit(3)
worker = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
if options.behaviour == "never ready":
    print("still loading", flush=True)
options.note.write_text(json.dumps([os.getpid(), worker.pid, sys.argv[1:]]))
if options.behaviour == "never ready":
    time.sleep(600)
if options.behaviour == "ignores SIGTERM":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Handler(BaseHTTPRequestHandler):
    """Health, models, completions."""

    def reply(self, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.reply({"data": [{"id": options.served_model_name}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert request["model"] == options.served_model_name
        if options.behaviour == "dies":
            print("worker died", flush=True)
            os._exit(1)
        if options.behaviour == "hangs":
            options.note.with_suffix(".asked").touch()
            time.sleep(600)
        self.reply({"choices": [{"text": options.text}]})

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in http.server
        """Say nothing."""


ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()
