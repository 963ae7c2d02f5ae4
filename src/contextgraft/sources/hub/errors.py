"""Errors of the hub and the network as one line with a remedy, without addresses and tokens."""

import errno
from collections.abc import Callable
from ssl import SSLError

from huggingface_hub import constants
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from contextgraft.errors import (
    ContextgraftError,
    InputError,
    OutputError,
    SourceError,
    file_system_error,
    file_system_remedy,
)
from contextgraft.sources.hub.guard import DelayTooLongError, redact
from contextgraft.sources.hub.http import (
    ConnectError,
    ConnectTimeout,
    HTTPError,
    InvalidURL,
    UnsupportedProtocol,
)

LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
UNREACHABLE = (ConnectError, ConnectTimeout, UnsupportedProtocol)  # no server responds
# what keeps the client, and Xet's library, from writing into their caches
CACHE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
RUN_AGAIN = "run the same command again later: it continues where it stopped"
FAILURES = (
    HTTPError, InvalidURL, OfflineModeIsEnabled, ValueError, TypeError, KeyError, AttributeError,
    RuntimeError, ConnectionError, TimeoutError, SSLError,
)  # fmt: skip


def upload_error(error: BaseException, what: str) -> ContextgraftError:
    """The error to raise for whatever ended an upload; Xet's library raises errors of Python's own kinds."""
    full = _cache_error(error)
    if full is not None:
        return full
    if isinstance(error, FAILURES):
        return hub_error(error, what)
    return _broken(error, what)


def hub_error(error: Exception, what: str) -> ContextgraftError:
    """The error to raise for one of FAILURES from a call of the hub's client; `what` names its subject.

    InputError where the user must change something, SourceError where the same command may succeed later.
    """
    full = _cache_error(error)
    if full is not None:
        return full
    if not isinstance(error, HTTPError) and isinstance(error.__cause__, FAILURES):
        error = error.__cause__  # the client wraps errors of uploads and of cards
    if isinstance(error, HfHubHTTPError):
        return _of_status(error, what)
    return next(make for kind, make in ERROR_MAKERS if isinstance(error, kind))(error, what)


def _cache_error(error: BaseException) -> OutputError | None:
    """The error for a cache of the client that cannot be written, which no server is to blame for."""
    cause = file_system_error(error) if isinstance(error, Exception) else None
    if cause is None or cause.errno not in CACHE_ERRNOS or isinstance(cause, SSLError):
        return None
    return OutputError(
        "cannot be written", path=cause.filename or constants.HF_HOME, received=cause.strerror,
        remedy=file_system_remedy(cause, "free disk space")
        + ", or set HF_HOME to a folder on another disk; then run the same command again",
    )  # fmt: skip


def status_of(error: HfHubHTTPError) -> int:
    """The HTTP status of an error."""
    return int(error.response.status_code)


def reason(error: BaseException) -> str:
    """A short reason for a progress message."""
    if isinstance(error, HfHubHTTPError):
        phrase = redact(error.response.reason_phrase)[:80]
        return f"the hub returned status {status_of(error)} {phrase}".strip()
    return redact(str(error))[:200] or type(error).__name__


def _of_status(error: HfHubHTTPError, what: str) -> ContextgraftError:
    kinds = (kind for kind in NAMED if isinstance(error, kind))
    status = status_of(error)
    remedy = RUN_AGAIN if status >= 500 else "see the message of the hub"
    general = (SourceError, f"the hub returned status {status}", remedy)
    make, message, remedy = next((NAMED[kind] for kind in kinds), STATUS.get(status, general))
    return make(message, path=what, received=_server(error), remedy=remedy)


def _server(error: HfHubHTTPError) -> str | None:
    """The message of the server, shortened, and the delay that it requests."""
    after = error.response.headers.get("Retry-After")
    message = [redact(error.server_message)[:200]] if error.server_message else []
    return "; ".join([*message, *([f"Retry-After: {redact(after)[:40]}"] if after else [])]) or None


ErrorText = tuple[type[ContextgraftError], str, str]
NAMED: dict[type[HfHubHTTPError], ErrorText] = {
    GatedRepoError: (
        InputError,
        "the repository is gated: its owners decide about access",
        f"request access on its page; then {LOGIN}",
    ),
    DisabledRepoError: (InputError, "the hub disabled this repository", "contact its owners"),
    RevisionNotFoundError: (
        InputError,
        "revision not found",
        "give an existing branch, tag or commit as hf:OWNER/NAME@REVISION",
    ),
    RepositoryNotFoundError: (
        InputError,
        "not found on the hub, or private",
        f"check the name; if it is private, {LOGIN}",
    ),
    RemoteEntryNotFoundError: (SourceError, "the hub lists a file that it does not have", RUN_AGAIN),
}
STATUS: dict[int, ErrorText] = {
    400: (InputError, "the hub rejects the request", "correct what its message names"),
    401: (InputError, "the hub does not accept the token, or requires one", LOGIN),
    403: (
        InputError,
        "the token does not allow this",
        f"use a token with the permission for it (to publish: write), and {LOGIN}",
    ),
    404: (SourceError, "not found on the hub", "check the name, and HF_ENDPOINT if it is set"),
    409: (SourceError, "another upload to this repository was faster", RUN_AGAIN),
    412: (SourceError, "another upload to this repository was faster", RUN_AGAIN),
    413: (SourceError, "the hub, or a proxy before it, takes no upload of this size", "check the proxy"),
    429: (
        SourceError,
        "the rate limit of the hub is reached, and waiting did not help",
        f"{RUN_AGAIN}; or {LOGIN}",
    ),
}


def _offline(error: Exception, what: str) -> ContextgraftError:  # noqa: ARG001
    return SourceError(
        "access to the hub is disabled",
        path=what,
        received="HF_HUB_OFFLINE",
        remedy="unset this variable, or give a local folder",
    )


def _network(error: Exception, what: str) -> ContextgraftError:
    remedy = f"check the network, the proxy, and HF_ENDPOINT if it is set; {RUN_AGAIN}"
    return SourceError("the hub cannot be reached", path=what, received=reason(error), remedy=remedy)


def _broken(error: BaseException, what: str) -> ContextgraftError:
    return SourceError("the connection fails repeatedly", path=what, received=reason(error), remedy=RUN_AGAIN)


def _busy(error: Exception, what: str) -> ContextgraftError:
    make, message, remedy = STATUS[429]
    return make(message, path=what, received=str(error), remedy=remedy)


def _name(error: Exception, what: str) -> ContextgraftError:
    return InputError("not a valid repository name", path=what, received=redact(str(error))[:200])


def _strange(error: Exception, what: str) -> ContextgraftError:
    return SourceError(
        "the response is not that of a hub",
        path=what,
        received=reason(error),
        remedy="check HF_ENDPOINT if it is set, and whether the network requires a login",
    )


ERROR_MAKERS: tuple[tuple[type[Exception], Callable[[Exception, str], ContextgraftError]], ...] = (
    (OfflineModeIsEnabled, _offline),
    *((kind, _network) for kind in (*UNREACHABLE, InvalidURL)),
    *((kind, _broken) for kind in (HTTPError, OSError)),
    (DelayTooLongError, _busy),
    (HFValidationError, _name),
    (Exception, _strange),
)
