"""A model that a step refused, on record: a sidecar in the place of the model, so that others go on."""

from pathlib import Path

from contextgraft.checkpoint.atomic import remove_output, write_json
from contextgraft.checkpoint.model_folder import REFUSED, SIDECAR
from contextgraft.errors import (
    CheckpointError,
    ConfigError,
    ContextgraftError,
    InputError,
    MismatchError,
    Refused,
)
from contextgraft.formats.sidecar import sidecar

FINAL = (InputError, CheckpointError, MismatchError, Refused)


def is_final(error: ContextgraftError) -> bool:
    """Whether trying again would not help: the error is about a model, not about disk or command line."""
    return isinstance(error, FINAL) and not isinstance(error, ConfigError)


def record_refusal(folder: Path, verb: str, error: ContextgraftError, *, replace: bool = False) -> None:
    """Write `contextgraft.json` of kind "refused"; a refusal that is passed on keeps its verb and reason.

    With `replace` an output of an earlier run in `folder` is removed first.
    """
    verb, reason = (error.verb, error.reason) if isinstance(error, Refused) else (verb, str(error))
    if replace:
        remove_output(folder)
    write_json(folder / SIDECAR, sidecar(REFUSED, name=folder.name, verb=verb, reason=reason))
