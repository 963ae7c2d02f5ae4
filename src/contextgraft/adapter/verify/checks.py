"""Things proved or disproved one by one, so that a report can say all that differs."""

from collections.abc import Callable
from dataclasses import dataclass

from contextgraft.errors import ContextgraftError, VerificationError


@dataclass(frozen=True)
class Check:
    """One thing proved or disproved; `detail` says how much was checked, or what differs."""

    name: str
    holds: bool
    detail: str


def run_check(name: str, prove: Callable[[], str]) -> Check:
    """A check whose detail is what `prove` returns, or the error it ended with."""
    try:
        return Check(name, True, prove())
    except ContextgraftError as error:
        return Check(name, False, str(error))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return Check(name, False, f"the manifest is malformed: {error!r}")


def check_equal(what: str, recorded: object, found: object) -> None:
    """Raise VerificationError if two values differ."""
    if recorded != found:
        raise VerificationError(f"{what} differs", expected=_short(recorded), received=_short(found))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
