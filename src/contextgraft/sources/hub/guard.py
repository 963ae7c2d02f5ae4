"""What a hub may receive and send: the token on its own host only; bounded answers without the token."""

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import get_token, set_client_factory
from huggingface_hub.utils import _http, get_session, parse_ratelimit_headers
from typing_extensions import override

from contextgraft.sources.hub.http import Response, SyncByteStream

MAX_ANSWER = 64 << 20  # bytes of an answer that is not a file
MAX_SECONDS = 300  # of such an answer
PATIENCE = 300  # seconds without a byte, where the caller names no other number: the client has no limit
HIDDEN = "***"
SHORTEST_TOKEN = 8  # characters; shorter ones may be in any file
LONGEST_TOKEN = 200
SECRETS = (
    (re.compile(r"hf_[A-Za-z0-9]{6,}"), HIDDEN),
    (re.compile(r"\b(bearer|basic)(\s|%20|\+)+[^\s,;'\"]+", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"://[^/@\s]+@"), f"://{HIDDEN}@"),
)
DEFAULT_PORTS = {"http": 80, "https": 443}
BUSY = range(429, 600)  # statuses after which the client may wait for as long as the server says


class DelayTooLongError(RuntimeError):
    """A server requests a longer delay than the client may wait."""


def redact(text: str) -> str:
    """The same text without access tokens: the user's own, and whatever has the form of one."""
    token = get_token()
    if token:
        text = text.replace(token, HIDDEN)
    for pattern, replacement in SECRETS:
        text = pattern.sub(replacement, text)
    return text


def returned_token(data: bytes) -> bool:
    """Whether bytes that a server sent hold the access token that it received."""
    guard = _guard_of(get_session())
    secrets = guard.secrets if guard is not None else set()
    return any(secret.encode() in data for secret in secrets if len(secret) >= SHORTEST_TOKEN)


def same_origin(url: str, other: str) -> bool:
    """Whether two addresses have the same scheme, host and port; https instead of http is the same host."""
    first, second = _origin(url), _origin(other)
    upgraded = (first[0], second[0]) == ("https", "http") and first[1] == second[1]
    return first == second or (upgraded and (first[2], second[2]) == (443, 80))


def guard_session(endpoint: str, max_delay: float = math.inf) -> None:
    """Make the client of huggingface_hub follow the rules of this module, for the hub at `endpoint`.

    Also the clients that it makes later, for it closes one whose connection failed. Where it waits by itself,
    a requested delay of more than `max_delay` seconds raises DelayTooLongError.
    """
    guard = _guard_of(get_session())
    if guard is None:
        guard = _Guard()
        set_client_factory(partial(_guarded_client, _http._GLOBAL_CLIENT_FACTORY, guard))
    guard.endpoints.add(endpoint)
    guard.max_delay = max_delay


def _guard_of(session: Any) -> "_Guard | None":
    owners = (getattr(hook, "__self__", None) for hook in session.event_hooks["request"])
    return next((owner for owner in owners if isinstance(owner, _Guard)), None)


def _guarded_client(make: Callable[[], Any], guard: "_Guard") -> Any:
    client = make()
    client.timeout = PATIENCE
    hooks = client.event_hooks
    client.event_hooks = {
        "request": [*hooks["request"], guard.before],
        "response": [*hooks["response"], guard.after],
    }
    return client


def requested_delay(response: Response) -> float | None:
    """Seconds that a busy server requests to wait, in any of the headers that hubs use, or None."""
    with suppress(ValueError, OverflowError):
        limit = parse_ratelimit_headers(response.headers) if response.status_code == 429 else None
        if limit is not None and limit.remaining == 0:
            return float(limit.reset_in_seconds)
    after = response.headers.get("Retry-After", "").strip()
    with suppress(ValueError, OverflowError):
        if after.isascii() and after.isdigit():
            return float(after)
        until = parsedate_to_datetime(after)
        if until.tzinfo is None:  # the zone -0000 of RFC 5322
            until = until.replace(tzinfo=UTC)
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    return None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return "", None, None


class _Guard:
    """Hooks around each request, redirected ones too; `secrets` are the tokens that were sent."""

    def __init__(self) -> None:
        self.endpoints: set[str] = set()
        self.secrets: set[str] = set()
        self.max_delay = math.inf

    def before(self, request: Any) -> None:
        value = request.headers.get("Authorization")
        if value:
            self.secrets |= {value.rpartition(" ")[2]}
            if not any(same_origin(str(request.url), endpoint) for endpoint in self.endpoints):
                del request.headers["Authorization"]
        request.headers["Accept-Encoding"] = "identity"  # so that bytes can be counted

    def after(self, response: Any) -> None:
        delay = requested_delay(response) if response.status_code in BUSY else None
        if delay is not None and delay > self.max_delay:
            raise DelayTooLongError(f"a requested delay of {delay:,.0f} s")
        for name, value in response.headers.multi_items():
            if self.hide(value) != value:
                response.headers[name] = self.hide(value)
        phrase = response.extensions.get("reason_phrase", b"")
        response.extensions["reason_phrase"] = self.hide(phrase.decode("latin-1")).encode("latin-1")
        is_file = response.status_code in (200, 206) and not response.request.url.path.startswith("/api/")
        if not is_file:
            response.stream = _BoundedStream(response, self)

    def hide(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return text


class _BoundedStream(SyncByteStream):
    """The body of an answer, read whole within the limits, without tokens."""

    def __init__(self, response: Response, guard: _Guard) -> None:
        self.inner: Any = response.stream
        self.encoding = response.headers.get("Content-Encoding", "identity")
        self.guard = guard

    @override
    def __iter__(self) -> Iterator[bytes]:
        if self.encoding != "identity":
            raise ValueError(f"an answer compressed as {self.encoding[:20]}, which was not requested")
        yield self.guard.hide(_read(self.inner).decode("latin-1")).encode("latin-1")

    @override
    def close(self) -> None:
        self.inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def _read(stream: Iterable[bytes]) -> bytes:
    until = time.monotonic() + MAX_SECONDS
    chunks, size = [], 0
    for chunk in stream:
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_ANSWER:
            raise ValueError(f"an answer of more than {MAX_ANSWER:,} bytes")
        if time.monotonic() > until:
            raise ValueError(f"an answer that takes longer than {MAX_SECONDS} seconds")
    return b"".join(chunks)
