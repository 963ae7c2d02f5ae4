"""Errors a user can cause, each one line: what, which file, expected, received, remedy.

ContextgraftError
├── InputError            an argument, path or option is wrong
│   └── ConfigError       a configuration file is wrong
├── CheckpointError       a file of a model or adapter is malformed or of an unsupported kind
│   └── PickleRefused     a pickle (.bin, .pt, or renamed): never loaded
├── MismatchError         two models or an adapter and a model do not fit each other
├── Refused               an earlier step refused this model and put that on record
├── SourceError           a hub or the network refused, or gave something else than it promised
├── OutputError           the output cannot be written as asked
│   └── OutputBusy        another run is writing it
└── VerificationError     a graft is not what its manifest says
"""

from pathlib import Path


class ContextgraftError(Exception):
    """A mistake the user can mend; its text is one line and says how."""

    def __init__(
        self,
        what: str,
        *,
        path: Path | str | None = None,
        expected: object = None,
        received: object = None,
        remedy: str | None = None,
    ) -> None:
        parts = [f"{path}: {what}" if path is not None else what]
        if expected is not None:
            parts.append(f"expected {expected}")
        if received is not None:
            parts.append(f"received {received}")
        if remedy is not None:
            parts.append(remedy)
        super().__init__(printable(" ".join("; ".join(parts).split())))


def printable(text: str) -> str:
    """Text from anywhere, safe for a terminal: what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class InputError(ContextgraftError):
    """An argument, path or option is wrong."""


class ConfigError(InputError):
    """A configuration file is wrong."""


class CheckpointError(ContextgraftError):
    """A file of a model or adapter is malformed or of an unsupported kind."""


class PickleRefused(CheckpointError):  # noqa: N818 - named for what happened, like FileExists
    """A pickle, which runs code when loaded."""


class MismatchError(ContextgraftError):
    """Two models, or an adapter and a model, do not fit each other."""


class Refused(ContextgraftError):  # noqa: N818
    """An earlier step refused this model: `verb` and `reason` are that step's."""

    def __init__(self, path: Path, verb: str, reason: str) -> None:
        super().__init__(f"was refused by {verb}: {reason}", path=path)
        self.verb = verb
        self.reason = reason


class SourceError(ContextgraftError):
    """A hub or the network refused, or gave something else than it promised."""


class OutputError(ContextgraftError):
    """The output cannot be written as asked."""


class OutputBusy(OutputError):  # noqa: N818
    """Another run is writing the same output."""


class VerificationError(ContextgraftError):
    """A graft is not what its manifest says."""
