"""Records of refusals: a sidecar in place of a refused model, so that a study continues with the others."""

from pathlib import Path

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
    Refused,
)
from contextgraft.formats.sidecar import sidecar

FINAL = (InputError, CheckpointError, MismatchError, Refused)


def is_final(error: ContextgraftError) -> bool:
    """Whether the error is about a model, so that a retry cannot help, not about disk or command line."""
    return isinstance(error, FINAL) and not isinstance(error, ConfigError | InputChanged | MissingExtra)


def record_refusal(folder: Path, verb: str, error: ContextgraftError, *, replace: bool = False) -> None:
    """Write `contextgraft.json` of kind "refused"; if `error` is a Refused, its verb and reason are recorded.

    With `replace` an output of an earlier run in `folder` is removed first.
    """
    verb, reason = (error.verb, error.reason) if isinstance(error, Refused) else (verb, str(error))
    if replace:
        remove_output(folder)
    write_json(folder / SIDECAR, sidecar(REFUSED, name=folder.name, verb=verb, reason=reason))
