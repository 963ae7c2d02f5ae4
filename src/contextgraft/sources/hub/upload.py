"""Upload a package to the hub in one commit; the repository is created if it does not exist."""

import importlib.util
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from huggingface_hub import CommitOperationAdd, constants
from typing_extensions import override

from contextgraft.checkpoint.input_files import unchanged
from contextgraft.errors import InputChanged, InputError
from contextgraft.formats.model_card.licence import CARD
from contextgraft.sources.hub.client import Hub, with_retries
from contextgraft.sources.hub.errors import UNREACHABLE, upload_error
from contextgraft.sources.hub.guard import guard_session
from contextgraft.sources.hub.package import UploadPackage

COMMITTED_BYTES = 10_000_000  # larger files are never part of a commit itself, but stored before it
MAIN = "main"
PULL_REQUEST = "refs/"


@dataclass(frozen=True)
class UploadResult:
    """Commit and address of an uploaded package."""

    commit: str
    url: str


class CountingReader(io.BufferedReader):
    """A file that calls `advance` with the bytes read from it, each byte once however often it is read."""

    def __init__(self, path: Path, advance: Callable[[int], object]) -> None:
        super().__init__(io.FileIO(path))
        self._advance, self.counted = advance, 0

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        new = max(0, self.tell() - self.counted)
        self.counted += new
        self._advance(new)
        return data


class CountedUpload(CommitOperationAdd):
    """A file of the commit whose bytes are counted as they are sent; Xet reads files itself, uncounted."""

    advance: Callable[[int], object] = int
    sent = 0

    @override
    @contextmanager
    def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:
        """The content; if it is read to be sent (`with_tqdm`), counted in place of the client's own bar."""
        if not with_tqdm or not isinstance(self.path_or_fileobj, str | Path):
            with super().as_file() as file:
                yield file
            return
        with CountingReader(Path(self.path_or_fileobj), self._count) as counting:
            yield counting

    def _count(self, read: int) -> None:
        self.sent += read
        self.advance(read)


def uses_xet() -> bool:
    """Whether the client uploads over Xet: then only its own bars show the bytes inside a file."""
    return not constants.HF_HUB_DISABLE_XET and importlib.util.find_spec("hf_xet") is not None


def upload(
    package: UploadPackage,
    hub: Hub,
    *,
    private: bool = False,
    revision: str | None = None,
    advance: Callable[[int], object] = int,
) -> UploadResult:
    """Upload a package to branch `revision` of its repository, created if it is new.

    In one commit, so that the repository has all files or none. Content that the hub has already is not sent
    again, so that an interrupted upload continues. `advance` is called with bytes as they are sent, over Xet
    with those of a whole file, and with those of a file that the hub has or will have with the commit. Raises
    the errors of `hub_error`, and InputChanged before the commit if a file of the folder is not what it was
    when the package was built.
    """
    api, to = hub.api, package.to
    call = partial(with_retries, hub, to, final=UNREACHABLE)
    call(partial(api.create_repo, to, private=private or None, exist_ok=True))
    if private and call(partial(api.model_info, to)).private is False:
        raise InputError(
            "the repository exists and is public; --private does not change that", path=to,
            remedy="make it private in its settings, or choose another repository",
        )  # fmt: skip
    if revision and revision != MAIN and not revision.startswith(PULL_REQUEST):
        call(partial(api.create_branch, to, branch=revision, exist_ok=True))
    message = f"{package.kind.capitalize()} by contextgraft"
    guard_session(api.endpoint, hub.max_delay)
    try:  # the client retries by itself here
        with unchanged(package.inputs):  # all bytes are read here
            operations = _operations(package, advance)
            for batch in _batches(operations):
                api.preupload_lfs_files(to, batch, revision=revision)
                advance(sum(operation.upload_info.size - operation.sent for operation in batch))
        commit = api.create_commit(to, operations, commit_message=message, revision=revision)
    except (KeyboardInterrupt, SystemExit, InputChanged):
        raise
    except BaseException as error:
        raise upload_error(error, to) from None
    return UploadResult(commit.oid, str(commit.commit_url))


def _operations(package: UploadPackage, advance: Callable[[int], object]) -> list[CountedUpload]:
    """The files of the commit; those that the hub may want in the commit itself are read here."""

    def content(name: str) -> bytes | Path:
        path = package.folder / name
        if name in package.rewritten:
            return package.rewritten[name]
        return path.read_bytes() if package.files[name] <= COMMITTED_BYTES else path

    operations = [CountedUpload(name, content(name)) for name in package.files]
    operations.append(CountedUpload(CARD, package.card.encode()))
    for operation in operations:
        operation.advance = advance
    return operations


def _batches(operations: list[CountedUpload]) -> list[list[CountedUpload]]:
    """Large files one by one, so that each is seen to arrive; the others, which need few bytes, together."""
    large = [[operation] for operation in operations if operation.upload_info.size > COMMITTED_BYTES]
    small = [operation for operation in operations if operation.upload_info.size <= COMMITTED_BYTES]
    return [small, *large]
