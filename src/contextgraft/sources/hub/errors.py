"""What the hub or the network refuses, in one line with the remedy; addresses and tokens are never in it."""

from collections.abc import Callable

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

from contextgraft.errors import ContextgraftError, InputError, SourceError
from contextgraft.sources.hub.http import (
    ConnectError,
    ConnectTimeout,
    HTTPError,
    InvalidURL,
    UnsupportedProtocol,
)

LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
UNREACHABLE = (ConnectError, ConnectTimeout, UnsupportedProtocol)  # nobody is there
AGAIN = "run the same command again later: it goes on where it stopped"
FAILURES = (
    HTTPError, InvalidURL, OfflineModeIsEnabled, ValueError, TypeError, KeyError, AttributeError, RuntimeError
)  # fmt: skip


def refusal(error: Exception, what: str) -> ContextgraftError:
    """The one line for one of FAILURES that a call of the hub's client ended with; `what` it was about.

    InputError where only a person can mend it, SourceError where the same command may succeed later.
    """
    if not isinstance(error, HTTPError) and isinstance(error.__cause__, FAILURES):
        error = error.__cause__  # the client wraps what an upload failed with, and what a card lacks
    if isinstance(error, HfHubHTTPError):
        return _of_status(error, what)
    return next(make for kind, make in KINDS if isinstance(error, kind))(error, what)


def status_of(error: HfHubHTTPError) -> int:
    """The HTTP status that an error came with."""
    return int(error.response.status_code)


def reason(error: Exception) -> str:
    """A few words for a line of progress."""
    if isinstance(error, HfHubHTTPError):
        return f"the hub answers {status_of(error)} {error.response.reason_phrase}".strip()
    return str(error)[:200] or type(error).__name__


def _of_status(error: HfHubHTTPError, what: str) -> ContextgraftError:
    kinds = (kind for kind in NAMED if isinstance(error, kind))
    status = status_of(error)
    general = (SourceError, f"the hub answers {status}", AGAIN if status >= 500 else "see what it says")
    make, said, remedy = next((NAMED[kind] for kind in kinds), STATUS.get(status, general))
    return make(said, path=what, received=_server(error), remedy=remedy)


def _server(error: HfHubHTTPError) -> str | None:
    """What the server says, shortened, and how long it asks to wait."""
    after = error.response.headers.get("Retry-After")
    said = [error.server_message[:200]] if error.server_message else []
    return "; ".join([*said, *([f"Retry-After: {after[:40]}"] if after else [])]) or None


Words = tuple[type[ContextgraftError], str, str]
NAMED: dict[type[HfHubHTTPError], Words] = {
    GatedRepoError: (
        InputError,
        "is gated: its owners decide who may have it",
        f"ask for access on its page; then {LOGIN}",
    ),
    DisabledRepoError: (InputError, "was disabled by the hub", "ask its owners"),
    RevisionNotFoundError: (
        InputError,
        "has no such revision",
        "name a branch, a tag or a commit of it as hf:OWNER/NAME@REVISION",
    ),
    RepositoryNotFoundError: (
        InputError,
        "does not exist on the hub, or is private",
        f"check the name; if it is private, {LOGIN}",
    ),
    RemoteEntryNotFoundError: (SourceError, "has a file in its list that the hub does not have", AGAIN),
}
STATUS: dict[int, Words] = {
    400: (InputError, "the hub refuses what it was given", "mend what it names"),
    401: (InputError, "the hub does not accept the token, or wants one", LOGIN),
    403: (
        InputError,
        "the token does not allow this",
        f"take one with the permission for it (to publish: write), and {LOGIN}",
    ),
    404: (SourceError, "is not there", "check the name, and HF_ENDPOINT if it is set"),
    429: (
        SourceError,
        "the hub limits how often it is asked, and waiting did not help",
        f"{AGAIN}; or {LOGIN}",
    ),
}


def _offline(error: Exception, what: str) -> ContextgraftError:  # noqa: ARG001
    return SourceError(
        "the hub is switched off here",
        path=what,
        received="HF_HUB_OFFLINE",
        remedy="unset it, or give a folder",
    )


def _network(error: Exception, what: str) -> ContextgraftError:
    remedy = f"check the network, the proxy, and HF_ENDPOINT if it is set; {AGAIN}"
    return SourceError("the hub cannot be reached", path=what, received=reason(error), remedy=remedy)


def _broken(error: Exception, what: str) -> ContextgraftError:
    return SourceError(
        "the connection breaks again and again", path=what, received=reason(error), remedy=AGAIN
    )


def _name(error: Exception, what: str) -> ContextgraftError:
    return InputError("is no name of a repository", path=what, received=str(error)[:200])


def _strange(error: Exception, what: str) -> ContextgraftError:
    return SourceError(
        "the answer is not that of a hub",
        path=what,
        received=reason(error),
        remedy="check HF_ENDPOINT if it is set, and whether the network has a page to log in at",
    )


KINDS: tuple[tuple[type[Exception], Callable[[Exception, str], ContextgraftError]], ...] = (
    (OfflineModeIsEnabled, _offline),
    *((kind, _network) for kind in (*UNREACHABLE, InvalidURL)),
    (HTTPError, _broken),
    (HFValidationError, _name),
    (Exception, _strange),
)
