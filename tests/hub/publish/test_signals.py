"""SIGINT, SIGTERM and SIGHUP in `publish` and `fetch --headers`: one line, and the same command goes on."""

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import Made

if TYPE_CHECKING:
    from tests.hub.server import HubServer

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PUBLISHING = {
    "first request": "",
    "repository": "POST /api/repos/create",
    "list of files": "POST .*/preupload/",
    "large file": "PUT /upload/",
    "commit": "POST .*/commit/",
}
HEADERS = {"first request": "", "small file": "config.json", "header": "GET /lfs/"}
QUICK = {("large file", signal.SIGTERM), ("header", signal.SIGINT)}


def cases(moments: dict[str, str]) -> list[Any]:
    """Every moment with every signal; the quick ones run by default."""
    return [
        pytest.param(
            where, number, id=f"{name} {number.name}",
            marks=[] if (name, number) in QUICK else pytest.mark.slow,
        )
        for name, where in moments.items()
        for number in SIGNALS
    ]  # fmt: skip


def interrupt(
    server: "HubServer", process: subprocess.Popen[str], where: str, number: signal.Signals
) -> None:
    """Send a signal to a command when the hub has read a request of it, and before it answers."""
    take, waiting = server.take, [True]

    def send(line: str) -> Any:
        if waiting and re.search(where, line):
            waiting.clear()
            os.kill(process.pid, number)
        return take(line)

    server.take = send  # type: ignore[method-assign]


def check_interrupted(process: subprocess.Popen[str], number: signal.Signals) -> None:
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 128 + number, stderr
    assert "Traceback" not in stderr
    assert stderr.count("contextgraft: interrupted") == 1


@pytest.mark.parametrize(("where", "number"), cases(PUBLISHING))
def test_publish(
    *,
    server: "HubServer",
    once: Made,
    start: Callable[..., subprocess.Popen[str]],
    where: str,
    number: signal.Signals,
) -> None:
    words = ("publish", once.adapter, "--to", "owner/r4")
    process = start(*words, HF_TOKEN=server.token)
    interrupt(server, process, where, number)
    check_interrupted(process, number)
    files = {path.name for path in once.adapter.iterdir() if path.name[0] != "."}
    assert published(server) in (set(), files)
    again = start(*words, HF_TOKEN=server.token)
    _, stderr = again.communicate(timeout=200)
    assert again.returncode == 0, stderr
    assert published(server) == files
    commit = server.repos["owner/r4"].resolve("main")
    assert commit is not None
    for name in files - {"README.md"}:
        assert server.repos["owner/r4"].commits[commit][name] == (once.adapter / name).read_bytes()


def published(server: "HubServer") -> set[str]:
    """The names of what the repository's branch has, without the hub's own."""
    repo = server.repos.get("owner/r4")
    commit = repo.resolve("main") if repo else None
    return set(repo.commits[commit]) - {".gitattributes"} if repo and commit else set()


@pytest.mark.parametrize(("where", "number"), cases(HEADERS))
def test_headers(
    *,
    server: "HubServer",
    model: dict[str, bytes],
    toy: SimpleNamespace,
    start: Callable[..., subprocess.Popen[str]],
    run: Callable[..., Any],
    tmp_path: Path,
    where: str,
    number: signal.Signals,
) -> None:
    server.add("owner/tiny", model)
    words = ("fetch", "hf:owner/tiny", "--headers", "--out")
    assert run(*words, tmp_path / "whole").status == 0
    process = start(*words, tmp_path / "out")
    interrupt(server, process, where, number)
    check_interrupted(process, number)
    assert not (tmp_path / "out").exists()
    assert run(*words, tmp_path / "out").status == 0
    assert toy.contents(tmp_path / "out") == toy.contents(tmp_path / "whole")
