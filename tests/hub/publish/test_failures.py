"""A hub that is busy, refuses or fails while something is published: one line, and nothing half published."""

import errno
import ssl
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import close_session
from huggingface_hub.constants import HF_HOME

from contextgraft.errors import ContextgraftError, InputError, OutputError, SourceError
from contextgraft.sources.hub.client import Hub
from contextgraft.sources.hub.errors import hub_error, upload_error
from contextgraft.sources.hub.package import build_package
from contextgraft.sources.hub.upload import upload

from .conftest import Made

if TYPE_CHECKING:
    from tests.hub.server import HubServer


MENDED = {
    "create": {"where": "POST /api/repos/create", "status": 502},
    "store": {"where": "PUT /upload/", "status": 500, "times": 3},
    "limit": {"where": "POST .*/preupload/", "status": 429, "headers": {"Retry-After": "0"}},
}


@pytest.mark.parametrize("name", MENDED)
def test_a_busy_hub_is_waited_for(server: "HubServer", owner: Hub, once: Made, name: str) -> None:
    fault: dict[str, Any] = dict(MENDED[name])
    server.fault(**fault)
    upload(build_package(once.adapter, "owner/r4"), owner)
    assert server.faults[0].times == 0


DELAYS = {
    "seconds": {"Retry-After": "99999999"},
    "digits": {"Retry-After": "9" * 400},
    "date": {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"},
    "limit": {"RateLimit": '"api";r=0;t=99999999'},
}


@pytest.mark.parametrize("name", DELAYS)
@pytest.mark.parametrize(
    "where", ["POST /api/repos/create", "POST .*/preupload/", "PUT /upload/", "POST .*/commit/"]
)
def test_an_absurd_delay_is_not_waited_for(
    *, server: "HubServer", owner: Hub, once: Made, monkeypatch: pytest.MonkeyPatch, where: str, name: str
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    server.fault(where, status=429, headers=DELAYS[name])
    with pytest.raises(SourceError, match="rate limit of the hub is reached, and waiting did not help"):
        upload(build_package(once.adapter, "owner/r4"), owner)
    assert sum(slept) < 100


FULL: list[BaseException] = [
    OSError(errno.ENOSPC, "No space left on device", "/cache/xet/shard"),
    OSError(errno.EROFS, "Read-only file system"),
    RuntimeError("Data processing error: I/O error: No space left on device (os error 28)"),
    RuntimeError("File too large (os error 27)"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
@pytest.mark.parametrize("make", [upload_error, hub_error])
def test_a_full_cache_of_the_client_is_not_the_fault_of_the_hub(
    error: Any, make: Callable[[Any, str], ContextgraftError]
) -> None:
    made = make(error, "owner/tiny")
    assert type(made) is OutputError
    assert str(error.filename if isinstance(error, OSError) and error.filename else HF_HOME) in str(made)
    assert ", or set HF_HOME to a folder on another disk" in str(made)


HTML = b"<html>\x1b[31m\n" * 100
FINAL: dict[str, tuple[dict[str, Any], type[ContextgraftError], str]] = {
    "store": ({"where": "PUT /upload/", "status": 500}, SourceError, "hub returned status 500; run the same"),
    "storage": ({"where": "PUT /upload/", "status": 403}, InputError, "the token does not allow this"),
    "no right": (
        {"where": "POST /api/models/.*/preupload", "status": 403},
        InputError,
        r"the token does not allow this; .*\(to publish: write\)",
    ),
    "bad card": (
        {
            "where": "POST /api/validate-yaml",
            "status": 400,
            "body": b'{"errors": [{"message": "no licence"}]}',
        },
        InputError,
        "the hub rejects the request; received .*no licence; correct what its message names",
    ),
    "limit": (
        {"where": "POST /api/repos/create", "status": 429, "headers": {"Retry-After": "0"}},
        SourceError,
        "rate limit of the hub is reached",
    ),
    "too large": (
        {"where": "PUT /upload/", "status": 413, "body": HTML},
        SourceError,
        "takes no upload of this size; received <html>.{,400}; check the proxy$",
    ),
    "another commit": (
        {"where": "POST .*/commit/", "status": 412},
        SourceError,
        "another upload to this repository was faster; run the same command again",
    ),
    "a page to log in": (
        {"where": "POST /api/models/.*/preupload", "status": 200, "body": HTML},
        SourceError,
        "not that of a hub.*network requires a login",
    ),
    "a commit without an address": (
        {"where": "POST .*/commit/", "status": 200, "body": b"{}"},
        SourceError,
        "not that of a hub",
    ),
    "a redirect to a file": (
        {"where": "POST /api/repos/create", "status": 307, "headers": {"Location": "file:///etc/passwd"}},
        SourceError,
        "cannot be reached; received .*unsupported protocol",
    ),
}


@pytest.mark.parametrize("name", FINAL)
def test_a_hub_that_refuses_is_one_line(server: "HubServer", owner: Hub, once: Made, name: str) -> None:
    fault, kind, message = FINAL[name]
    server.fault(**fault, times=100)
    with pytest.raises(kind, match=message) as error:
        upload(build_package(once.adapter, "owner/r4"), owner)
    assert "\n" not in str(error.value)
    assert server.token not in str(error.value)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clients that wait 0.2 seconds for a byte."""
    monkeypatch.setattr("contextgraft.sources.hub.guard.PATIENCE", 0.2)
    close_session()
    yield
    close_session()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("where", ["POST /api/repos/create", "POST .*/commit/"])
def test_a_hub_that_falls_silent_is_not_waited_for_without_end(
    server: "HubServer", owner: Hub, once: Made, where: str
) -> None:
    server.fault(where, status=200, body=b"{", headers={"Content-Length": "1000"}, times=100)
    with pytest.raises(SourceError, match="the connection fails repeatedly; received timed out"):
        upload(build_package(once.adapter, "owner/r4"), owner)


@pytest.mark.parametrize("where", ["POST /api/repos/create", "POST .*/preupload/", "POST .*/commit/"])
def test_a_redirect_to_another_host_gets_no_token(
    server: "HubServer", owner: Hub, once: Made, where: str
) -> None:
    server.fault(where, status=307, headers={"Location": f"{server.store_url}/elsewhere"}, times=100)
    with pytest.raises(ContextgraftError):
        upload(build_package(once.adapter, "owner/r4"), owner)
    redirected = server.requests("/elsewhere")
    assert redirected
    assert not any(request.authorization for request in redirected)


def test_nobody_may_write_without_a_token(hub: Hub, once: Made, owner: Hub) -> None:
    with pytest.raises(InputError, match=r"does not accept the token, or requires one.*hf auth login"):
        upload(build_package(once.adapter, "owner/r4"), hub)


class PanicException(BaseException):
    """What a library in Rust raises where it fails in an unforeseen way."""


FAILING = [
    ConnectionError("Network error: HTTP status client error (404 Not Found), domain: http://127.0.0.1/x"),
    RuntimeError("Data processing error: CAS service error"),
    OSError(5, "Input/output error"),
    TimeoutError("timed out"),
    ConnectionResetError(104, "Connection reset by peer"),
    ssl.SSLCertVerificationError("certificate verify failed"),
    PanicException("called `Option::unwrap()` on a `None` value"),
    MemoryError("out of memory"),
]


NETWORK = (ConnectionError, TimeoutError, ssl.SSLError, RuntimeError)  # only Xet raises the others
CALLS = [("create_commit", error) for error in FAILING]
CALLS += [("create_repo", error) for error in FAILING if isinstance(error, NETWORK)]


@pytest.mark.parametrize(("call", "error"), CALLS, ids=repr)
def test_a_transport_that_fails_is_one_line_and_publishes_nothing(
    *,
    server: "HubServer",
    owner: Hub,
    once: Made,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    error: BaseException,
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(owner.api, call, fail)
    with pytest.raises(SourceError) as caught:
        upload(build_package(once.adapter, "owner/transport"), owner)
    assert "\n" not in str(caught.value)
    assert "owner/transport" in str(caught.value)
    repository = server.repos.get("owner/transport")
    commits = repository.commits.values() if repository else ()
    assert all(set(files) <= {".gitattributes"} for files in commits)
