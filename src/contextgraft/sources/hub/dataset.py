"""Fetch the files of a data set on the hub that match patterns into a folder."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.atomic import publish, write_json
from contextgraft.checkpoint.resume import ResumeLog
from contextgraft.errors import ContextgraftError, InputError, raise_read_error
from contextgraft.formats.hub_source import DATASETS, HUB
from contextgraft.formats.sidecar import SIDECAR, read_sidecar
from contextgraft.sources.hub.client import Hub, pin_dataset, resolve_dataset
from contextgraft.sources.hub.download import Transfer
from contextgraft.sources.hub.fetch import sized_files, source_record, transfer_files
from contextgraft.sources.hub.files import has_digest, is_safe_name


@dataclass(frozen=True)
class HubDatasets:
    """The data sets of the hub, as training recipes name them."""

    hub: Hub = field(default_factory=Hub)

    def pinned(self, source: str) -> str:
        """The source with the commit that its revision refers to now."""
        name, commit = pin_dataset(self.hub, source)
        return f"{HUB}{DATASETS}{name}@{commit}"

    def fetch(
        self, source: str, out: Path, patterns: Sequence[str], usable: Callable[[str], object]
    ) -> object:
        """Fetch the matching files of a pinned data set into `out`; see `fetch_dataset`."""
        return fetch_dataset(source, out, self.hub, patterns, usable)

    def is_whole(self, source: str, out: Path) -> bool:
        """Whether `out` has the files of this commit, all bytes of which are compared with their digests."""
        try:
            record = read_sidecar(out, "data")
            files = record["files"].items()
            return (
                bool(files)
                and source.endswith(f"@{record['revision']}")
                and all(has_digest(out / name, facts) for name, facts in files)
            )
        except (ContextgraftError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise_read_error(error, out)
            return False


def fetch_dataset(
    source: str,
    out: Path,
    hub: Hub,
    patterns: Sequence[str] = ("*",),
    usable: Callable[[str], object] = str,
    *,
    replace: bool = False,
) -> dict[str, Any]:
    """Write the files of `hf:datasets/OWNER/NAME[@REVISION]` that match a pattern to `out`.

    In patterns `*` matches `/` too, as in the hub's client. Returns the record, of kind "data": the commit,
    and the verified size and digest of every file. An interrupted run of the same commit is continued. Raises
    InputError for a pattern without a match, the errors of `usable`, which is called with every name, and
    those of `fetch_repository`.
    """
    with publish(out, replace=replace) as work:
        repository = resolve_dataset(hub, source)
        names = matching(repository.files, patterns, source)
        for name in names:
            usable(name)
        job = {"source": repository.name, "commit": repository.commit, "what": names}
        with ResumeLog(work, job) as resume_log:
            transfer = Transfer(hub, repository, resume_log)
            files = transfer_files(transfer, out, lambda _: sized_files(repository, names))
            record = source_record("data", repository, files)
            write_json(work / SIDECAR, record)
            return record


def matching(listing: Iterable[str], patterns: Sequence[str], source: str) -> list[str]:
    """Names that match any of the patterns, sorted."""
    known = sorted(name for name in listing if is_safe_name(name) and name != SIDECAR)  # we write our own
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise InputError(
                f"no file matches {pattern!r}", path=source, received=", ".join(known)[:120] or "no files"
            )
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]
