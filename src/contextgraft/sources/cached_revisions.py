"""The commit of a repository, without network where it is known: a full commit, or HF_HUB_OFFLINE is set."""

import re
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from huggingface_hub import constants

from contextgraft.checkpoint.atomic import publish_file
from contextgraft.errors import OutputError, ReadError, SourceError, raise_read_error
from contextgraft.sources.hub.client import COMMIT, Hub, parse_source, pinned_commit, resolve_repository

KEY = re.compile(r"[0-9a-f]{40}")  # names in the cache; others are not its own


def key_of(*identity: str) -> str:
    """The name in the cache of what has this identity."""
    return sha256("\0".join(identity).encode()).hexdigest()[:40]


def repository_commit(source: str, hub: Hub, folder: Path) -> tuple[str, str]:
    """Name and commit of the repository `hf:OWNER/NAME[@REVISION]`.

    A revision that is a commit is not looked up. What a branch or tag names is kept in `folder`, and taken
    from there while HF_HUB_OFFLINE is set; SourceError if it is not there.
    """
    name, revision = parse_source(source)
    commit = pinned_commit(source)
    if commit is not None:
        return name, commit
    file = folder / key_of(hub.api.endpoint, name, revision or "")
    if constants.HF_HUB_OFFLINE:
        commit = _read(file)
        if commit is None:
            raise SourceError(
                "is not in the cache, and access to the hub is disabled", path=source,
                received="HF_HUB_OFFLINE",
                remedy="unset this variable, give a commit that is in the cache, or a local folder",
            )  # fmt: skip
        return name, commit
    commit = resolve_repository(hub, source).commit
    with suppress(OutputError, ReadError):  # it may be another user's
        if _read(file) != commit:
            with publish_file(file, durable=False) as temporary:
                temporary.write_text(commit, encoding="ascii")
    return name, commit


def forget_revisions(folder: Path) -> None:
    """Remove what `repository_commit` wrote, and no other file."""
    for file in folder.glob("*"):
        if KEY.fullmatch(file.name) and _read(file) is not None:
            with suppress(OSError):
                file.unlink()
    with suppress(OSError):
        folder.rmdir()


def _read(file: Path) -> str | None:
    """The commit in a file; None if there is none."""
    try:
        text = file.read_text(encoding="ascii") if file.is_file() and file.stat().st_size == 40 else ""
    except (OSError, ValueError) as error:
        raise_read_error(error, file)
        return None
    return text if COMMIT.fullmatch(text) else None
