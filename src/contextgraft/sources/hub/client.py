"""Access to the hub through huggingface_hub's client; requests are retried while the server is busy."""

import re
from collections.abc import Callable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import TypeVar

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from contextgraft.errors import InputError, SourceError
from contextgraft.formats.hub_source import DATASETS, HUB_SOURCE
from contextgraft.formats.model_card.licence import licence_of
from contextgraft.sources.hub.errors import FAILURES, UNREACHABLE, hub_error, reason, status_of
from contextgraft.sources.hub.files import HubFile, TransferPlan, hub_file
from contextgraft.sources.hub.guard import guard_session, requested_delay, same_origin
from contextgraft.sources.hub.http import TransportError

TIMEOUT = constants.HF_HUB_DOWNLOAD_TIMEOUT  # seconds without a byte, from the variable of that name
MAX_PAGES = 2000  # of a list of files; a page of the hub has up to 1,000
MAX_FILES = {"model": 100_000, "dataset": 1_000_000}
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
COMMIT = re.compile(r"[0-9a-f]{40}")
DOWNLOAD_OTHERWISE = "download it with `hf download`, and use that folder"

Advance = Callable[[int], object]
Result = TypeVar("Result")


@contextmanager
def no_bar(what: str, total: int) -> Iterator[Advance]:  # noqa: ARG001
    """A progress bar that shows nothing."""
    yield int


@dataclass(frozen=True)
class DownloadProgress:
    """Where progress is reported: messages, the plan before a transfer, and a bar of its bytes."""

    log: Callable[[str], object] = str
    plan: Callable[[TransferPlan], object] = str
    bar: Callable[[str, int], AbstractContextManager[Advance]] = no_bar


@dataclass(frozen=True)
class Hub:
    """A hub, and how to use it.

    `retry_delays`: seconds before each retry unless the server says how long; `max_delay`: the longest delay
    in seconds that a server may request. `threads` files are downloaded at once. The client handles the
    token.
    """

    api: HfApi = field(default_factory=HfApi)
    progress: DownloadProgress = field(default_factory=DownloadProgress)
    retry_delays: tuple[float, ...] = (1, 2, 4, 8, 16)
    max_delay: float = 300
    threads: int = 4


@dataclass(frozen=True)
class Repository:
    """A repository at a commit; `source` is what the user typed, `files` are all of its files.

    `kind` is the hub's term for its content: model or dataset.
    """

    source: str
    kind: str
    name: str
    commit: str
    files: dict[str, HubFile]
    license: dict[str, str] = field(default_factory=dict)


class TransferTruncated(TransportError):  # noqa: N818 - what happened to the transfer
    """The server closed a transfer early without an error."""


class TransferCancelled(Exception):  # noqa: N818 - not an error: another transfer failed, or the user interrupted
    """Raised in a transfer that is no longer wanted."""


def parse_source(source: str, kind: str | None = None) -> tuple[str, str | None]:
    """Name and revision of `hf:OWNER/NAME[@REVISION]`; `kind`, if given, must follow `hf:`."""
    match = HUB_SOURCE.fullmatch(source)
    if not match or match["kind"] != kind:
        expected = f"hf:{kind or ''}OWNER/NAME[@REVISION]"
        raise InputError("not a repository on the hub", path=source, expected=expected)
    return match["name"], match["revision"]


def pinned_commit(source: str) -> str | None:
    """The commit in `hf:OWNER/NAME@COMMIT`; None for another revision, or none."""
    revision = parse_source(source)[1]
    return revision if revision is not None and COMMIT.fullmatch(revision) else None


def resolve_repository(hub: Hub, source: str) -> Repository:
    """Commit and files of the repository that `source` names; raises the errors of `hub_error`."""
    name, revision = parse_source(source)
    request = partial(hub.api.model_info, name, revision=revision, files_metadata=True, timeout=TIMEOUT)
    info = with_retries(hub, source, request, final=UNREACHABLE)
    commit = _commit(info.sha, source, revision)
    if info.siblings is None:
        raise SourceError("the response is not that of a hub", path=source, received="no files")
    _check_count(info.siblings, source, "model")
    files = {file.name: file for file in (hub_file(sibling, source) for sibling in info.siblings)}
    metadata = vars(info.card_data) if info.card_data else {}
    return Repository(source, "model", name, commit, files, licence_of(metadata, name))


def pin_dataset(hub: Hub, source: str) -> tuple[str, str]:
    """Name and current commit of the data set that `source` names."""
    name, revision = parse_source(source, DATASETS)
    request = partial(hub.api.dataset_info, name, revision=revision, timeout=TIMEOUT)
    return name, _commit(with_retries(hub, source, request, final=UNREACHABLE).sha, source, revision)


def resolve_dataset(hub: Hub, source: str) -> Repository:
    """As `resolve_repository`; the files are listed in pages, because a data set may have very many."""
    name, commit = pin_dataset(hub, source)
    url: str | None = f"{hub.api.endpoint}/api/datasets/{name}/tree/{commit}?recursive=true&expand=false"
    files: dict[str, HubFile] = {}
    for _ in range(MAX_PAGES):
        entries, url = with_retries(hub, source, partial(_page, hub, str(url)), final=UNREACHABLE)
        files |= {file.name: file for file in (hub_file(entry, source) for entry in entries)}
        _check_count(files, source, "dataset")
        if url is None:
            return Repository(source, "dataset", name, commit, files)
    raise InputError(
        "the list of files does not end", path=source,
        expected=f"at most {MAX_PAGES:,} pages", remedy=DOWNLOAD_OTHERWISE,
    )  # fmt: skip


def _check_count(files: Sized, source: str, kind: str) -> None:
    if len(files) > MAX_FILES[kind]:
        raise InputError(
            "has too many files", path=source, expected=f"at most {MAX_FILES[kind]:,}",
            remedy=DOWNLOAD_OTHERWISE,
        )  # fmt: skip


def _page(hub: Hub, url: str) -> tuple[list[RepoFile], str | None]:
    """The files of one page of a list, and the address of the next page, which is on the same host."""
    headers = build_hf_headers(token=hub.api.token)
    response = get_session().get(url, headers=headers, timeout=TIMEOUT)
    hf_raise_for_status(response)
    following = response.links.get("next", {}).get("url")
    if following is not None and not same_origin(following, hub.api.endpoint):
        raise ValueError("a list of files that continues on another host")
    content = response.json()
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise ValueError("a list of files of another form")
    files = (entry for entry in content if entry.get("type") == "file")
    return [RepoFile(**entry) for entry in files], following  # type: ignore[no-untyped-call]


def _commit(sha: object, source: str, revision: str | None) -> str:
    """The commit of a response; SourceError for another one than a revision that is a commit itself."""
    if not isinstance(sha, str) or not COMMIT.fullmatch(sha):
        raise SourceError("the response is not that of a hub", path=source, received="no commit")
    if revision is not None and COMMIT.fullmatch(revision) and sha != revision:
        raise SourceError(
            "the hub returned another commit", path=source, expected=revision, received=sha,
            remedy="check HF_ENDPOINT if it is set",
        )  # fmt: skip
    return sha


def with_retries(
    hub: Hub,
    what: str,
    attempt: Callable[[], Result],
    *,
    done: Callable[[], int] = int,
    enough: int = 1,
    stop: Event | None = None,
    final: tuple[type[Exception], ...] = (),
) -> Result:
    """The result of `attempt`, retried while the hub is busy or the connection breaks.

    The count of retries starts again whenever `done()`, in bytes, has grown by `enough`. Errors of types
    `final` are not retried. `what` names the subject in messages.
    """
    stop = stop or Event()
    tries, before = 0, done()
    while True:
        try:
            guard_session(hub.api.endpoint)
            return attempt()
        except FAILURES as error:
            tries, before = (0, done()) if done() >= before + enough else (tries, before)
            delay = None if isinstance(error, final) else _delay(hub, error, tries)
            if delay is None:
                raise hub_error(error, what) from None
            tries += 1
            hub.progress.log(
                f"{what}: {reason(error)}; retry in {delay:.0f} s ({tries} of {len(hub.retry_delays)})"
            )
            if stop.wait(delay):
                raise TransferCancelled from None


def _delay(hub: Hub, error: Exception, tries: int) -> float | None:
    """Seconds until the next try; None for no retry."""
    if not isinstance(error, HfHubHTTPError | TransportError) or tries >= len(hub.retry_delays):
        return None
    if isinstance(error, HfHubHTTPError):
        if status_of(error) not in RETRIED:
            return None
        requested = requested_delay(error.response)
        if requested is not None:
            return requested if requested <= hub.max_delay else None
    return hub.retry_delays[tries]
