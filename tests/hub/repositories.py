"""What the hub on loopback keeps: repositories, requests, and the faults that requests run into."""

import hashlib
from dataclasses import dataclass, field

TOKEN = "hf_secret_of_the_tests"
LARGE = (".safetensors", ".bin", ".gguf", ".model", ".parquet")  # stored as LFS

Files = dict[str, bytes]


@dataclass
class Repo:
    """A repository: files by commit, commits by branch. `private` wants a token, `gated` gives no content."""

    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: Files, branch: str = "main") -> str:
        """Record a new state of a branch; its id follows from its content."""
        text = repr(sorted((name, sha256(data)) for name, data in files.items())) + branch
        oid = hashlib.sha1(f"{text}{len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch or a commit id names."""
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass
class Fault:
    """What goes wrong with requests whose "METHOD path" matches `where`, the next `times` times.

    `status` answers with that and `headers`; else the body is sent with the byte at `flip` changed, cut after
    `cut` bytes (declared in full, or not at all with `silent`), `slow` seconds a piece, byte by byte after
    `drip` bytes so that it never ends, longer by `more`, or whole although a range was requested.
    """

    where: str
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    silent: bool = False
    flip: int | None = None
    slow: float = 0.0
    drip: int | None = None
    more: bytes = b""
    whole: bool = False


@dataclass(frozen=True)
class Request:
    """One request as it came in, and the port it came to."""

    line: str
    range: str | None
    authorization: str | None
    port: int


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
