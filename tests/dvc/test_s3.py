"""The same round over an S3 endpoint on loopback, by DVC's real client."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

KEY = "any"  # the server takes every key


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    """Address of an S3 server of our own."""
    for module in ("dvc_s3", "moto"):
        pytest.importorskip(module, reason="needs the packages of tests/dvc/requirements.lock")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(3000):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(300)


def test_push_to_s3_and_pull_elsewhere(study: Any, clone: Any, endpoint: str) -> None:
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/store", method="PUT")).close()  # the bucket
    clone.run("dvc", "remote", "add", "--force", "--default", "store", "s3://store/studies")
    clone.run("dvc", "remote", "modify", "store", "endpointurl", endpoint)
    clone.run("git", "commit", "--quiet", "--all", "--message", "The store is in S3")
    enter(clone)
    assert "pushed" in clone.run("dvc", "push")
    with urllib.request.urlopen(f"{endpoint}/store?prefix=studies/files/md5/") as stored:
        assert b"<Key>studies/files/md5/" in stored.read()

    other = clone.clone("from-s3")
    enter(other)
    other.pull()
    assert "Nothing to be done" in other.snakemake("--dry-run")
    assert other.summary() == study.summary()


def enter(clone: Any) -> None:
    """A clone's own keys, which git does not see."""
    for name in ("access_key_id", "secret_access_key"):
        clone.run("dvc", "remote", "modify", "--local", "store", name, KEY)
