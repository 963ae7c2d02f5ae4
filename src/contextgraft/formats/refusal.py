"""Records of refusals: a sidecar in place of a refused model, so that a study continues with the others."""

from pathlib import Path
from typing import Any

from contextgraft.checkpoint.atomic import remove_output, write_json
from contextgraft.checkpoint.model_folder import REFUSED, SIDECAR
from contextgraft.errors import (
    CheckpointError,
    ConfigError,
    ContextgraftError,
    InputChanged,
    InputError,
    MismatchError,
    MissingExtra,
    OutputError,
    ReadError,
    Refused,
)
from contextgraft.formats.sidecar import check_record_output, sidecar

FINAL = (InputError, CheckpointError, MismatchError, Refused)


def is_final(error: ContextgraftError) -> bool:
    """Whether the error is about a model, so that a retry cannot help, not about disk or command line.

    A file that this user may not read is: the others of a batch go on.
    """
    if isinstance(error, ReadError):
        return error.denied
    return isinstance(error, FINAL) and not isinstance(error, ConfigError | InputChanged | MissingExtra)


def record_refusal(folder: Path, verb: str, error: ContextgraftError, *, replace: bool = False) -> None:
    """Write `contextgraft.json` of kind "refused"; if `error` is a Refused, its verb and reason are recorded.

    With `replace` an output of an earlier run in `folder` is removed first; otherwise OutputError if the
    folder holds anything but a record, such as a model or a graft.
    """
    if replace:
        remove_output(folder)
    try:
        check_record_output(folder, "--refusal")
    except OutputError as blocked:
        raise OutputError(f"{error}; this is not recorded: {blocked}") from None
    write_json(folder / SIDECAR, refusal(folder.name, verb, error))


def refusal(name: str, verb: str, error: ContextgraftError) -> dict[str, Any]:
    """The content of a sidecar of kind "refused" in a folder with that name."""
    verb, reason = (error.verb, error.reason) if isinstance(error, Refused) else (verb, str(error))
    return sidecar(REFUSED, name=name, verb=verb, reason=reason)
