"""Files of the hub onto the disk: appended to what is there, hashed as they come, in place only if right."""

import os
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

from contextgraft.checkpoint.resume import ResumeLog
from contextgraft.errors import SourceError
from contextgraft.sources.hub.client import (
    TIMEOUT,
    Advance,
    BrokenOff,
    Hub,
    Repository,
    Stopped,
    patiently,
)
from contextgraft.sources.hub.errors import AGAIN
from contextgraft.sources.hub.files import HubFile
from contextgraft.sources.hub.http import Response

PARTIAL = 206  # the status of an answer that is a range
CHUNK = 1 << 20  # bytes read at once where a file is hashed again


@dataclass(frozen=True)
class Transfer:
    """Files of one repository on their way into the work directory of `journal`."""

    hub: Hub
    repository: Repository
    journal: ResumeLog
    advance: Advance = int
    stop: Event = field(default_factory=Event)

    def place(self, file: HubFile) -> Path:
        """Where a file lies once it is whole."""
        return self.journal.work / file.name

    def part(self, file: HubFile) -> Path:
        """Where it grows."""
        return self.journal.file(file.name, ".part")

    def present(self, file: HubFile) -> int:
        """Bytes of it that are there already."""
        paths = (self.place(file), self.part(file))
        return min(file.bytes, next((path.stat().st_size for path in paths if path.exists()), 0))


def download(transfer: Transfer, files: Iterable[HubFile]) -> None:
    """Fetch files, several at once; what fails or is interrupted stays where it is for the next run.

    Refusals raise SourceError, a file that is wrong twice too; the disk raises OSError.
    """
    with ThreadPoolExecutor(transfer.hub.threads) as pool:
        running = [pool.submit(_fetch, transfer, file) for file in files]
        try:
            for each in as_completed(running):
                each.result()
        except BaseException:
            transfer.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def response_of(
    hub: Hub, repository: Repository, name: str, begin: int = 0, end: int | None = None
) -> Iterator[Response]:
    """The answer to a request for bytes [begin, end) of a file, its body unread; refusals are raised.

    Without compression, so that bytes can be counted. The token goes to the hub only, not where it redirects.
    """
    wanted = "" if (begin, end) == (0, None) else f"bytes={begin}-{'' if end is None else end - 1}"
    headers = build_hf_headers(token=hub.api.token) | {"Accept-Encoding": "identity"}
    url = hf_hub_url(
        repository.name,
        name,
        repo_type=repository.kind,
        revision=repository.commit,
        endpoint=hub.api.endpoint,
    )
    with get_session().stream(
        "GET", url, headers=headers | ({"Range": wanted} if wanted else {}), timeout=TIMEOUT
    ) as response:
        hf_raise_for_status(response)
        yield response


def _fetch(transfer: Transfer, file: HubFile) -> None:
    """Put one file in its place, thrown away and fetched once more if its bytes are not the hub's."""
    part, place = transfer.part(file), transfer.place(file)
    if place.exists():
        place.replace(part)  # hashed again like any beginning
    for again in (False, True):
        found = _fill(transfer, file, part)
        if found == file.digest:
            place.parent.mkdir(parents=True, exist_ok=True)
            part.replace(place)
            return
        transfer.advance(-part.stat().st_size)
        part.unlink()
        if not again:
            transfer.hub.watch.say(
                f"{file.name}: not the bytes that the hub has on record; thrown away and fetched once more"
            )
    raise SourceError(
        "holds other bytes than the hub has on record, twice",
        path=f"{transfer.repository.source}/{file.name}",
        expected=f"digest {file.digest}",
        received=found,
        remedy=f"look for a proxy or a mirror that changes files; {AGAIN}",
    )


def _fill(transfer: Transfer, file: HubFile, part: Path) -> str:
    """Append to a part until it has all bytes of the file; its digest then."""
    with part.open("ab+", buffering=0) as output:
        growth = _Growth(transfer, file, output, file.hasher())
        growth.take_up()
        patiently(transfer.hub, file.name, growth.append, done=growth.size, stop=transfer.stop)
        return str(growth.hash.hexdigest())


@dataclass
class _Growth:
    """A part that grows, with the hash of what it holds."""

    transfer: Transfer
    file: HubFile
    output: FileIO
    hash: Any

    def size(self) -> int:
        """Bytes that are there."""
        return self.output.seek(0, os.SEEK_END)

    def take_up(self) -> None:
        """Hash what an earlier run left."""
        self.output.seek(0)
        while chunk := self.output.read(CHUNK):
            self._count(chunk)

    def append(self) -> None:
        """Ask for the rest and append it; a transfer that ends too early raises BrokenOff."""
        begin = self.size()
        if begin >= self.file.bytes:
            return
        with response_of(self.transfer.hub, self.transfer.repository, self.file.name, begin) as response:
            if begin and not begins_at(response, begin):
                self._restart()
            for chunk in response.iter_bytes():
                self.output.write(chunk)
                self._count(chunk)
                if self.size() > self.file.bytes:
                    return  # too much: the digest will say so
        if self.size() < self.file.bytes:
            raise BrokenOff("the transfer ended too early")

    def _count(self, chunk: bytes) -> None:
        if self.transfer.stop.is_set():
            raise Stopped
        self.hash.update(chunk)
        self.transfer.advance(len(chunk))

    def _restart(self) -> None:
        """Forget what is there: the server sends all of it again."""
        self.transfer.advance(-self.size())
        self.output.truncate(0)
        self.hash = self.file.hasher()


def begins_at(response: Response, begin: int) -> bool:
    """Whether the server sends the range that was asked for."""
    where = response.headers.get("Content-Range", "")
    return response.status_code == PARTIAL and where.startswith(f"bytes {begin}-")
