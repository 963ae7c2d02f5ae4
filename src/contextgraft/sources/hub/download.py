"""Download files of the hub: partial files are continued, complete ones verified before they are renamed."""

import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from threading import Event
from typing import Any

from huggingface_hub import hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from contextgraft.checkpoint.atomic import remove
from contextgraft.checkpoint.resume import ResumeLog
from contextgraft.errors import SourceError
from contextgraft.sources.hub.client import (
    TIMEOUT,
    Advance,
    Hub,
    Repository,
    TransferCancelled,
    TransferTruncated,
    with_retries,
)
from contextgraft.sources.hub.errors import RUN_AGAIN
from contextgraft.sources.hub.files import HubFile
from contextgraft.sources.hub.guard import LONGEST_TOKEN, returned_token
from contextgraft.sources.hub.http import Response

PARTIAL = 206  # the status of an answer that is a range
CHUNK = 1 << 20  # bytes read at once where a file is hashed again
LEAST_BYTES = 1024  # of a connection: with fewer, or fewer than a share of the file, it counts as failed
LEAST_SHARE = 10_000
SLOWEST = 300  # seconds for so many bytes, before a connection is closed


@dataclass(frozen=True)
class Transfer:
    """A transfer of files of one repository into the work directory of `resume_log`."""

    hub: Hub
    repository: Repository
    resume_log: ResumeLog
    advance: Advance = int
    stop: Event = field(default_factory=Event)

    def final_path(self, file: HubFile) -> Path:
        """Path of the complete file."""
        return self.resume_log.work / file.name

    def partial_path(self, file: HubFile) -> Path:
        """Path of the incomplete file."""
        return self.resume_log.file(file.name, ".part")

    def bytes_present(self, file: HubFile) -> int:
        """Number of bytes that are on the disk already."""
        paths = (self.final_path(file), self.partial_path(file))
        return min(file.bytes, next((path.stat().st_size for path in paths if path.exists()), 0))


class TokenReturned(SourceError):  # noqa: N818 - named after the event, like FileExists
    """The hub sent the access token back."""


def download(transfer: Transfer, files: Iterable[HubFile]) -> None:
    """Download files, several at once; a failed or interrupted transfer is continued by the next run.

    Raises the errors of `hub_error`, SourceError for a file that is wrong twice, and OSError of the disk.
    """
    with ThreadPoolExecutor(transfer.hub.threads) as pool:
        running = [pool.submit(_fetch, transfer, file) for file in files]
        try:
            for task in as_completed(running):
                task.result()
        except BaseException:
            transfer.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def open_response(
    hub: Hub, repository: Repository, name: str, begin: int = 0, end: int | None = None
) -> Iterator[Response]:
    """The response to a request for bytes [begin, end) of a file, its body unread; error statuses are raised.

    Without compression, so that bytes can be counted. The token is sent to the hub only, not to redirects.
    """
    byte_range = "" if (begin, end) == (0, None) else f"bytes={begin}-{'' if end is None else end - 1}"
    headers = build_hf_headers(token=hub.api.token) | {"Accept-Encoding": "identity"}
    url = hf_hub_url(
        repository.name,
        name,
        repo_type=repository.kind,
        revision=repository.commit,
        endpoint=hub.api.endpoint,
    )
    with get_session().stream(
        "GET", url, headers=headers | ({"Range": byte_range} if byte_range else {}), timeout=TIMEOUT
    ) as response:
        hf_raise_for_status(response)
        yield response


def check_no_token(data: bytes, path: str) -> None:
    """Raise TokenReturned if a file holds the access token, which would be published with it."""
    if returned_token(data):
        raise TokenReturned(
            "the file holds your access token, which the hub sent back", path=path,
            remedy="revoke the token, and check HF_ENDPOINT if it is set",
        )  # fmt: skip


def _fetch(transfer: Transfer, file: HubFile) -> None:
    """Download one file; if its digest is wrong, delete it and download it once more."""
    part, final = transfer.partial_path(file), transfer.final_path(file)
    for path in (part, final):
        if not path.is_file() or path.is_symlink():
            remove(path)
    if final.exists():
        final.replace(part)  # hashed again, as any partial file
    for is_retry in (False, True):
        try:
            digest = _complete(transfer, file, part)
        except TokenReturned:
            part.unlink()
            raise
        if digest == file.digest:
            final.parent.mkdir(parents=True, exist_ok=True)
            part.replace(final)
            return
        transfer.advance(-part.stat().st_size)
        part.unlink()
        if not is_retry:
            transfer.hub.progress.log(
                f"{file.name}: differs from the digest on the hub; deleted and downloaded once more"
            )
    raise SourceError(
        "the content differs from the digest on the hub, twice",
        path=f"{transfer.repository.source}/{file.name}",
        expected=f"digest {file.digest}",
        received=digest,
        remedy=f"look for a proxy or a mirror that changes files; {RUN_AGAIN}",
    )


def _complete(transfer: Transfer, file: HubFile, part: Path) -> str:
    """Append to a partial file until it has all bytes; returns its digest."""
    with part.open("ab+", buffering=0) as output:
        partial_file = _PartialFile(transfer, file, output, file.hasher())
        partial_file.hash_existing()
        with_retries(
            transfer.hub, file.name, partial_file.append, done=partial_file.size, enough=_least_bytes(file),
            stop=transfer.stop,
        )  # fmt: skip
        return str(partial_file.hash.hexdigest())


def _least_bytes(file: HubFile) -> int:
    """The bytes after which a connection was of use: a server of one byte per connection is given up."""
    return max(LEAST_BYTES, file.bytes // LEAST_SHARE)


@dataclass
class _PartialFile:
    """A file that is being downloaded, with the hash of its bytes so far."""

    transfer: Transfer
    file: HubFile
    output: FileIO
    hash: Any
    end: bytes = b""  # of the bytes so far

    def size(self) -> int:
        """Number of bytes in the file."""
        return self.output.seek(0, os.SEEK_END)

    def hash_existing(self) -> None:
        """Hash the bytes that an earlier run left."""
        self.output.seek(0)
        while chunk := self.output.read(CHUNK):
            self._check(chunk)
            self._count(chunk)

    def append(self) -> None:
        """Request the rest and append it; a transfer that ends early raises TransferTruncated."""
        begin = self.size()
        if begin >= self.file.bytes:
            return
        with open_response(self.transfer.hub, self.transfer.repository, self.file.name, begin) as response:
            if begin and not is_range_from(response, begin):
                self._restart()
            mark, until = self.size(), time.monotonic() + SLOWEST
            for chunk in response.iter_bytes():
                self._check(chunk)
                self.output.write(chunk)
                self._count(chunk)
                if self.size() > self.file.bytes:
                    return  # too many bytes: the digest will differ
                if self.size() >= mark + _least_bytes(self.file):
                    mark, until = self.size(), time.monotonic() + SLOWEST
                if time.monotonic() > until:
                    raise TransferTruncated("the transfer is too slow")
        if self.size() < self.file.bytes:
            raise TransferTruncated("the transfer ended early")

    def _check(self, chunk: bytes) -> None:
        """Check that no token is in a chunk, or begins in the one before it."""
        data = self.end + chunk
        check_no_token(data, f"{self.transfer.repository.source}/{self.file.name}")
        self.end = data[-LONGEST_TOKEN:]

    def _count(self, chunk: bytes) -> None:
        if self.transfer.stop.is_set():
            raise TransferCancelled
        self.hash.update(chunk)
        self.transfer.advance(len(chunk))

    def _restart(self) -> None:
        """Discard all bytes, because the server sends the whole file."""
        self.transfer.advance(-self.size())
        self.output.truncate(0)
        self.hash, self.end = self.file.hasher(), b""


def is_range_from(response: Response, begin: int) -> bool:
    """Whether the response has the requested range."""
    content_range = response.headers.get("Content-Range", "")
    return response.status_code == PARTIAL and content_range.startswith(f"bytes {begin}-")
