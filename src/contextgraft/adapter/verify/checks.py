"""Checks that are run one by one, so that a report lists all differences."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contextgraft.errors import ContextgraftError, ReadError, VerificationError


@dataclass(frozen=True)
class Check:
    """The result of a check; `detail` is how much was checked, or what differs."""

    name: str
    holds: bool
    detail: str


@dataclass(frozen=True)
class Inputs:
    """Target and adapters to check the graft against, number of threads and progress callback."""

    target: Path | None
    adapters: Sequence[Path]
    threads: int
    advance: Callable[[int], object]


def as_json(checks: Sequence[Check]) -> dict[str, Any]:
    """The checks as JSON values, and whether all of them hold."""
    return {"holds": all(check.holds for check in checks), "checks": [asdict(check) for check in checks]}


def run_check(name: str, prove: Callable[[], str]) -> Check:
    """The check whose detail `prove` returns, or the error that it raises; ReadError is none."""
    try:
        return Check(name, True, prove())
    except ReadError:
        raise
    except ContextgraftError as error:
        return Check(name, False, str(error))
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        return Check(name, False, f"the manifest is malformed: {error!r}")


def check_equal(what: str, recorded: object, computed: object) -> None:
    """Raise VerificationError if two values differ."""
    if recorded != computed:
        raise VerificationError(f"{what} differs", expected=_short(recorded), received=_short(computed))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
