"""Files of a data set of the hub, chosen by patterns, into a folder."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.atomic import publish, write_json
from contextgraft.checkpoint.resume import ResumeLog
from contextgraft.errors import InputError
from contextgraft.formats.hub_source import DATASETS, HUB
from contextgraft.formats.sidecar import SIDECAR
from contextgraft.sources.hub.client import Hub, look_up_dataset, pinned
from contextgraft.sources.hub.download import Transfer
from contextgraft.sources.hub.fetch import known_files, record_of, transferred
from contextgraft.sources.hub.files import plain


@dataclass(frozen=True)
class HubDatasets:
    """Data sets of the hub for `training.data.hub`."""

    hub: Hub = field(default_factory=Hub)

    def pinned(self, source: str) -> str:
        """The source with the commit that it stands for now."""
        name, commit = pinned(self.hub, source)
        return f"{HUB}{DATASETS}{name}@{commit}"

    def fetch(
        self, source: str, out: Path, patterns: Sequence[str], usable: Callable[[str], object]
    ) -> object:
        """As `fetch_dataset`."""
        return fetch_dataset(source, out, self.hub, patterns, usable)


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

    In patterns `*` stands for `/` too, as in the hub's own client. Returns the record, of kind "data": the
    commit, and for every file size and digest as verified. What an interrupted run of the same commit fetched
    is taken up. A pattern that nothing matches raises InputError, as may `usable` for a name; the rest as
    `fetch_repository`.
    """
    with publish(out, replace=replace) as work:
        repository = look_up_dataset(hub, source)
        names = matching(repository.files, patterns, source)
        for name in names:
            usable(name)
        job = {"source": repository.name, "commit": repository.commit, "what": names}
        with ResumeLog(work, job) as journal:
            transfer = Transfer(hub, repository, journal)
            files = transferred(transfer, out, lambda _: known_files(repository, names))
            record = record_of("data", repository, files)
            write_json(work / SIDECAR, record)
            return record


def matching(listing: Iterable[str], patterns: Sequence[str], source: str) -> list[str]:
    """Names that match any of the patterns, sorted."""
    known = sorted(name for name in listing if plain(name) and name != SIDECAR)  # ours takes that place
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise InputError(
                f"has no file {pattern!r}", path=source, received=", ".join(known)[:120] or "no files at all"
            )
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]
