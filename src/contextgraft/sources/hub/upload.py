"""Upload a package to the hub in one commit; the repository is created if it does not exist."""

from dataclasses import dataclass
from functools import partial

from huggingface_hub import CommitOperationAdd

from contextgraft.errors import InputError
from contextgraft.sources.hub.client import Hub, with_retries
from contextgraft.sources.hub.errors import UNREACHABLE, upload_error
from contextgraft.sources.hub.guard import guard_session
from contextgraft.sources.hub.package import README, UploadPackage

MAIN = "main"
PULL_REQUEST = "refs/"


@dataclass(frozen=True)
class UploadResult:
    """Commit and address of an uploaded package."""

    commit: str
    url: str


def upload(
    package: UploadPackage, hub: Hub, *, private: bool = False, revision: str | None = None
) -> UploadResult:
    """Upload a package to branch `revision` of its repository, created if it is new.

    In one commit, so that the repository has all files or none. Content that the hub has already is not sent
    again, so that an interrupted upload continues. Raises the errors of `hub_error`.
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
    add = [
        CommitOperationAdd(name, package.rewritten.get(name, package.folder / name)) for name in package.files
    ]
    card = CommitOperationAdd(README, package.card.encode())
    message = f"{package.kind.capitalize()} by contextgraft"
    guard_session(api.endpoint)
    try:  # the client retries by itself here
        commit = api.create_commit(to, [*add, card], commit_message=message, revision=revision)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise upload_error(error, to) from None
    return UploadResult(commit.oid, str(commit.commit_url))
