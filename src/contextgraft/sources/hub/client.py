"""The hub seen from here: huggingface_hub's client, patient with a busy server and a broken connection."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import TypeVar

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils import parse_ratelimit_headers

from contextgraft.errors import InputError, SourceError
from contextgraft.formats.hub_source import DATASETS, HUB_SOURCE
from contextgraft.sources.hub.errors import FAILURES, UNREACHABLE, reason, refusal, status_of
from contextgraft.sources.hub.files import HubFile, Plan, hub_file
from contextgraft.sources.hub.http import TransportError

TIMEOUT = constants.HF_HUB_DOWNLOAD_TIMEOUT  # seconds without a byte; HF_HUB_DOWNLOAD_TIMEOUT changes it
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
COMMIT = re.compile(r"[0-9a-f]{40}")

Advance = Callable[[int], object]
Result = TypeVar("Result")


@contextmanager
def no_bar(what: str, total: int) -> Iterator[Advance]:  # noqa: ARG001
    """A progress bar that nobody sees."""
    yield int


@dataclass(frozen=True)
class Watch:
    """Where progress is said: lines, the plan before a transfer, and a bar of its bytes."""

    say: Callable[[str], object] = str
    plan: Callable[[Plan], object] = str
    bar: Callable[[str, int], AbstractContextManager[Advance]] = no_bar


@dataclass(frozen=True)
class Hub:
    """A hub and how to treat it.

    `waits`: seconds before each new try, where the server does not say how long; `longest`: seconds that are
    waited because it says so. `threads` files are fetched at once. The token is the client's business.
    """

    api: HfApi = field(default_factory=HfApi)
    watch: Watch = field(default_factory=Watch)
    waits: tuple[float, ...] = (1, 2, 4, 8, 16)
    longest: float = 300
    threads: int = 4


@dataclass(frozen=True)
class Repository:
    """A repository at a commit; `source` is what the user typed, `files` all that it has.

    `kind` is the hub's word for what it holds: model or dataset.
    """

    source: str
    kind: str
    name: str
    commit: str
    files: dict[str, HubFile]


class BrokenOff(TransportError):  # noqa: N818 - what happened to the transfer
    """The server ended a transfer before its end without an error."""


class Stopped(Exception):  # noqa: N818 - not an error: another transfer failed, or the user interrupted
    """Raised in a transfer that is no longer wanted."""


def split(source: str, kind: str | None = None) -> tuple[str, str | None]:
    """Name and revision of `hf:OWNER/NAME[@REVISION]`, behind `hf:` the kind if it is not None."""
    match = HUB_SOURCE.fullmatch(source)
    if not match or match["kind"] != kind:
        expected = f"hf:{kind or ''}OWNER/NAME[@REVISION]"
        raise InputError("is no repository of the hub", path=source, expected=expected)
    return match["name"], match["revision"]


def look_up(hub: Hub, source: str) -> Repository:
    """Commit and files of the repository that `source` names; refusals raise what `refusal` makes of them."""
    name, revision = split(source)
    ask = partial(hub.api.model_info, name, revision=revision, files_metadata=True, timeout=TIMEOUT)
    info = patiently(hub, source, ask, final=UNREACHABLE)
    commit = _commit(info.sha, source)
    if info.siblings is None:
        raise SourceError("the answer is not that of a hub", path=source, received="no files")
    files = {each.rfilename: hub_file(each) for each in info.siblings}
    return Repository(source, "model", name, commit, files)


def pinned(hub: Hub, source: str) -> tuple[str, str]:
    """Name and commit of the data set that `source` names."""
    name, revision = split(source, DATASETS)
    ask = partial(hub.api.dataset_info, name, revision=revision, timeout=TIMEOUT)
    return name, _commit(patiently(hub, source, ask, final=UNREACHABLE).sha, source)


def look_up_dataset(hub: Hub, source: str) -> Repository:
    """As `look_up`; asks page by page, for data sets have more files than one answer holds."""
    name, commit = pinned(hub, source)

    def ask() -> list[RepoFile | RepoFolder]:
        return list(hub.api.list_repo_tree(name, recursive=True, revision=commit, repo_type="dataset"))

    held = patiently(hub, source, ask, final=UNREACHABLE)
    files = {each.rfilename: hub_file(each) for each in held if isinstance(each, RepoFile)}
    return Repository(source, "dataset", name, commit, files)


def _commit(sha: object, source: str) -> str:
    if not isinstance(sha, str) or not COMMIT.fullmatch(sha):
        raise SourceError("the answer is not that of a hub", path=source, received="no commit")
    return sha


def patiently(
    hub: Hub,
    what: str,
    attempt: Callable[[], Result],
    *,
    done: Callable[[], int] = int,
    stop: Event | None = None,
    final: tuple[type[Exception], ...] = (),
) -> Result:
    """What `attempt` returns, tried again while the hub is busy or the connection breaks.

    Tries are counted anew whenever `done()`, in bytes, has grown. `final` are errors that are not waited for.
    """
    stop = stop or Event()
    tries, before = 0, done()
    while True:
        try:
            return attempt()
        except FAILURES as error:
            tries, before = (0, done()) if done() > before else (tries, before)
            wait = None if isinstance(error, final) else _wait(hub, error, tries)
            if wait is None:
                raise refusal(error, what) from None
            tries += 1
            hub.watch.say(f"{what}: {reason(error)}; again in {wait:.0f} s (try {tries} of {len(hub.waits)})")
            if stop.wait(wait):
                raise Stopped from None


def _wait(hub: Hub, error: Exception, tries: int) -> float | None:
    """Seconds until the next try; None if there should be none."""
    if not isinstance(error, HfHubHTTPError | TransportError) or tries >= len(hub.waits):
        return None
    if isinstance(error, HfHubHTTPError):
        if status_of(error) not in RETRIED:
            return None
        asked = _asked(error)
        if asked is not None:
            return asked if asked <= hub.longest else None
    return hub.waits[tries]


def _asked(error: HfHubHTTPError) -> float | None:
    """Seconds that the server asks to wait, by either of the headers hubs use."""
    headers = error.response.headers
    limit = parse_ratelimit_headers(headers) if status_of(error) == 429 else None
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    after = headers.get("Retry-After", "").strip()
    return float(after) if after.isascii() and after.isdigit() else None
