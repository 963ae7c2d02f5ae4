"""Files of a data set of the hub, chosen by patterns, into a folder."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.identity import SIDECAR, sidecar
from contextgraft.checkpoint.journal import Journal
from contextgraft.checkpoint.publish import publish, write_json
from contextgraft.errors import InputError
from contextgraft.sources.hub.client import Hub, look_up
from contextgraft.sources.hub.download import Transfer
from contextgraft.sources.hub.fetch import bring, known_files
from contextgraft.sources.hub.files import HubFile, plain


def fetch_dataset(source: str, out: Path, patterns: Sequence[str], hub: Hub) -> dict[str, Any]:
    """Write the files of `hf:datasets/OWNER/NAME[@REVISION]` that match a pattern to `out`.

    In patterns `*` stands for `/` too, as in the hub's own client. Returns the record, of kind "data": the
    commit, and for every file size and digest as verified. What an interrupted run of the same commit fetched
    is taken up. A pattern that nothing matches raises InputError; the rest as `fetch_repository`.
    """
    with publish(out) as work:
        repository = look_up(hub, source)
        names = matching(repository.files, patterns, source)
        job = {"source": repository.name, "commit": repository.commit, "what": names}
        with Journal(work, job) as journal:
            files = bring(Transfer(hub, repository, journal), out, lambda _: known_files(repository, names))
            record = sidecar(
                "data",
                name=repository.name.partition("/")[2],
                source=source,
                revision=repository.commit,
                files={file.name: file.record() for file in files},
            )
            write_json(work / SIDECAR, record)
            return record


def matching(listing: Mapping[str, HubFile], patterns: Sequence[str], source: str) -> list[str]:
    """Names that match any of the patterns, by pattern and then sorted."""
    known = sorted(name for name in listing if plain(name) and name != SIDECAR)  # ours takes that place
    found: dict[str, None] = {}
    for pattern in patterns:
        names = [name for name in known if fnmatchcase(name, pattern)]
        if not names:
            raise InputError(
                f"has no file {pattern!r}", path=source, received=", ".join(known)[:120] or "no files at all"
            )
        found |= dict.fromkeys(names)
    return list(found)
