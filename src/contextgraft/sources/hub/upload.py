"""A parcel to the hub: the repository made if need be, everything in one commit."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from huggingface_hub import CommitOperationAdd

from contextgraft.errors import InputError
from contextgraft.sources.hub.client import Hub, patiently
from contextgraft.sources.hub.errors import FAILURES, UNREACHABLE, refusal
from contextgraft.sources.hub.package import README, Parcel

MAIN = "main"
PULL_REQUEST = "refs/"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Sent:
    """Where a parcel arrived."""

    commit: str
    url: str


def send(parcel: Parcel, hub: Hub, *, private: bool = False, revision: str | None = None) -> Sent:
    """Upload a parcel to branch `revision` of its repository, which is made, `private` or not, if it is new.

    One commit: the repository has all of it or none. Content that is there already is not sent again, so an
    interrupted upload goes on. Refusals raise what `refusal` makes of them.
    """
    api, to = hub.api, parcel.to
    call = partial(patiently, hub, to, final=UNREACHABLE)
    call(partial(api.create_repo, to, private=private or None, exist_ok=True))
    if private and call(partial(api.model_info, to)).private is False:
        raise InputError(
            "is public already, and --private does not change that", path=to,
            remedy="make it private in its settings, or name another repository",
        )  # fmt: skip
    if revision and revision != MAIN and not revision.startswith(PULL_REQUEST):
        call(partial(api.create_branch, to, branch=revision, exist_ok=True))
    add = [CommitOperationAdd(name, parcel.folder / name) for name in parcel.files]
    card = CommitOperationAdd(README, parcel.card.encode())
    message = f"{parcel.kind.capitalize()} by contextgraft"
    done = _once(
        to,
        partial(api.create_commit, to, operations=[*add, card], commit_message=message, revision=revision),
    )
    return Sent(done.oid, str(done.commit_url))


def _once(what: str, call: Callable[[], Result]) -> Result:
    """What a call returns that is patient by itself; its failures in our words."""
    try:
        return call()
    except FAILURES as error:
        raise refusal(error, what) from None
