"""Errors that a user can cause. The text is one line: file, problem, expected, received, remedy.

ContextgraftError
├── InputError            an argument, path or option is wrong
│   ├── ConfigError       a configuration file is wrong
│   │   ├── SeveralMistakes   several mistakes in configuration files, a line for each
│   │   └── OtherRecommendation   a recommendation is for other models (also a MismatchError)
│   └── MissingExtra      an optional package is not installed
├── CheckpointError       a file of a model or adapter is malformed or of an unsupported kind
│   ├── InputChanged      a file was changed while it was read
│   ├── ReadError         a file cannot be read, which says nothing about its content
│   ├── PickleRefused     a pickle (.bin, .pt, or renamed): never loaded
│   └── NotFullPrecision  a model is quantised (also a MismatchError)
├── MismatchError         two models or an adapter and a model do not fit each other
├── Refused               an earlier step refused this model and recorded the refusal
├── SourceError           the hub, a server or the network failed, or sent wrong content
├── ProcessEnded          a process of this command could not start, or was ended from outside
├── OutputError           the output cannot be written
│   └── OutputBusy        another run is writing it
└── VerificationError     a graft or adapter differs from its record
"""

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from contextgraft.extras import EXTRAS, missing_package

SHOWN_MISTAKES = 50  # lines of an error about several
SHOWN_CHARACTERS = 1000  # of a path, a value or any other part of an error
# errors about the file itself: it is missing, or not a regular file. Others say nothing about its content.
OF_THE_FILE = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENXIO, errno.ENODEV, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EFBIG,
}  # fmt: skip
# the end of errors of libraries in Rust: safetensors has a class of its own, tokenizers and Xet have none
OS_ERROR = re.compile(r"\(os error (\d+)\)$")
IN_RUST = {"Exception", "RuntimeError", "SafetensorError"}
# what helps with errors of the file system that more space would not
REMEDIES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "check its permissions, or name another path"),
    **dict.fromkeys(
        (errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTEMPTY), "name another path"
    ),
    errno.ENOTDIR: "a part of the path is a file: name another path",
    errno.ENOENT: "check that its folder exists, or name another path",
    errno.EIO: "check the disk: the system's log names the fault",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`)",
}


class ContextgraftError(Exception):
    """An error that the user can correct; its text is one line.

    `what` is the problem, `path` the file or folder (or another subject), `remedy` what the user can do.
    """

    def __init__(
        self,
        what: str,
        *,
        path: Path | str | None = None,
        expected: object = None,
        received: object = None,
        remedy: str | None = None,
    ) -> None:
        what = _shortened(what)
        parts = [f"{_shortened(path)}: {what}" if path is not None else what]
        if expected is not None:
            parts.append(f"expected {_shortened(expected)}")
        if received is not None:
            parts.append(f"received {_shortened(received)}")
        if remedy is not None:
            parts.append(remedy)
        super().__init__(printable(" ".join("; ".join(parts).split())))


def _shortened(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def printable(text: str) -> str:
    """Text that is safe for a terminal: characters that cannot be printed are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """As `printable`, for text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def file_system_error(error: Exception) -> OSError | None:
    """The error of the file system that an exception is, or of which a library made a text of its own.

    Texts of other libraries may have words of a stranger's file in them, which say nothing about the disk.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error
    code = OS_ERROR.search(str(error)) if type(error).__name__ in IN_RUST else None
    if code:
        return OSError(int(code[1]), os.strerror(int(code[1])))
    return file_system_error(error.__cause__) if isinstance(error.__cause__, Exception) else None


def file_system_remedy(error: OSError, otherwise: str) -> str:
    """What the user can do about an error of the file system; `otherwise` where it may be a lack of space."""
    return REMEDIES.get(error.errno or 0, otherwise)


def did_you_mean(word: str, names: Iterable[str]) -> str | None:
    """A remedy: the name that a word is a misspelling of, also in upper case; None if none is similar."""
    known = {name.casefold(): name for name in names}
    close = get_close_matches(word.casefold(), known, n=1, cutoff=0.7)
    return f"did you mean {known[close[0]]}?" if close else None


def with_suggestion(text: str, word: str, names: Iterable[str]) -> str:
    """A text about a word that is none of the names, and which it is a misspelling of."""
    return "; ".join(filter(None, (text, did_you_mean(word, names))))


def first_names(names: Sequence[str], shown: int) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


class InputError(ContextgraftError):
    """An argument, path or option is wrong."""


class ConfigError(InputError):
    """A configuration file is wrong."""


class SeveralMistakes(ConfigError):  # noqa: N818
    """Several mistakes in configuration files: the text has a line for each of the first `mistakes`."""

    def __init__(self, mistakes: Sequence[ContextgraftError]) -> None:
        lines = [f"  {mistake}" for mistake in mistakes[:SHOWN_MISTAKES]]
        more = [f"  and {len(mistakes) - SHOWN_MISTAKES} more"] if len(mistakes) > SHOWN_MISTAKES else []
        Exception.__init__(self, "\n".join([f"{len(mistakes)} mistakes", *lines, *more]))
        self.mistakes = tuple(mistakes)


def mistakes_of(error: ContextgraftError) -> tuple[ContextgraftError, ...]:
    """The error itself, or each of several mistakes."""
    return error.mistakes if isinstance(error, SeveralMistakes) else (error,)


class MissingExtra(InputError):  # noqa: N818 - named for what is missing
    """An optional package is not installed; says nothing about a model."""


class CheckpointError(ContextgraftError):
    """A file of a model or adapter is malformed or of an unsupported kind."""


class PickleRefused(CheckpointError):  # noqa: N818 - named after the event, like FileExists
    """A file is a pickle, which runs code when it is loaded."""


class InputChanged(CheckpointError):  # noqa: N818 - named after the event, like FileExists
    """A file of an input was changed while it was read; the same command may succeed later."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(
            "was changed while it was read", path=path, remedy="run again when nothing writes to it"
        )


class ReadError(CheckpointError):
    """A file cannot be read, for a reason that is not its content, such as a failing disk or too many files.

    Nothing is removed, replaced or computed again because of it. `denied`: this user may not read it.
    """

    def __init__(self, path: Path | str, error: OSError) -> None:
        remedy = "run the same command again when it can be read"
        received = os.strerror(error.errno) if error.errno else error  # a library has words of its own
        super().__init__("cannot be read", path=path, received=received, remedy=remedy)
        self.denied = error.errno in {errno.EACCES, errno.EPERM}


def raise_read_error(error: Exception, path: Path | str) -> None:
    """Raise ReadError if an exception of reading a file says nothing about its content; else return."""
    if isinstance(error, ReadError):
        raise error
    if isinstance(error, ContextgraftError):  # its text may have words of the file
        return
    cause = file_system_error(error)
    if cause is not None and cause.errno not in OF_THE_FILE:
        raise ReadError(path, cause) from None


def missing_extra(error: BaseException, verb: str | None = None) -> MissingExtra | None:
    """The error to show where an optional package is missing; None if `error` has another cause.

    Where several extras install the package, the one with the name of the verb is recommended.
    """
    package = missing_package(error)
    if package is None:
        return None
    extras = EXTRAS[package]
    extra = verb if verb in extras else extras[0]
    return MissingExtra(
        f"{verb or 'this function'} needs the package {package}, which is not installed",
        remedy=f"install it with: pip install 'contextgraft[{extra}]'",
    )


@contextmanager
def required_extra(verb: str | None) -> Iterator[None]:
    """Turn the failed import of an optional package inside into the error of `missing_extra`."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = missing_extra(error, verb)
        if missing is None:
            raise
        raise missing from None


@contextmanager
def library_errors(
    what: str, path: Path | str, report: "type[ContextgraftError] | None" = None
) -> Iterator[None]:
    """Report whatever a library raises over a stranger's file as a CheckpointError (or `report`) in one line.

    Libraries raise anything: tokenizers has bare `Exception` and panics of Rust, which derive from
    BaseException; chat templates raise what they like. Too little memory says nothing about the file, nor
    does an optional package that is not installed: the error names the extra that installs it.
    """
    try:
        yield
    except ContextgraftError:
        raise
    except BaseException as error:
        kind = type(error).__name__
        full = isinstance(error, MemoryError) or "can't allocate memory" in str(error)  # torch's, on a CPU
        if full or kind == "OutOfMemoryError":
            raise ContextgraftError(
                f"{what}: this machine has too little memory", path=path, received=str(error)[:200] or None
            ) from None
        if not isinstance(error, Exception) and kind != "PanicException":
            raise
        missing = missing_extra(error)
        if missing is not None:
            raise missing from None
        if isinstance(error, Exception):
            raise_read_error(error, path)
        raise (report or CheckpointError)(what, path=path, received=f"{kind}: {error}"[:300]) from None


class MismatchError(ContextgraftError):
    """Two models, or an adapter and a model, do not fit each other."""


class OtherRecommendation(ConfigError, MismatchError):  # noqa: N818
    """A recommendation is for another fine-tune or adapter, which says nothing about the given ones."""


class NotFullPrecision(CheckpointError, MismatchError):  # noqa: N818
    """A model is quantised, so that no delta can be computed from it or added to it."""


class Refused(ContextgraftError):  # noqa: N818
    """An earlier step refused this model: `verb` is its command, `reason` its error text."""

    def __init__(self, path: Path, verb: str, reason: str) -> None:
        super().__init__(f"was refused by {verb}: {reason}", path=path)
        self.verb = verb
        self.reason = reason


class SourceError(ContextgraftError):
    """The hub, a server or the network failed, or sent wrong content."""


class ProcessEnded(ContextgraftError):  # noqa: N818 - named after the event, like FileExists
    """A process could not start, or was ended from outside; says nothing about a model."""


class OutputError(ContextgraftError):
    """The output cannot be written."""


class OutputBusy(OutputError):  # noqa: N818
    """Another run is writing the same output."""


class VerificationError(ContextgraftError):
    """A graft or adapter differs from its record."""
