"""The environment of a study's jobs: options come from the study alone."""

import os

from contextgraft.sources.cache import VARIABLE

PREFIX = "CONTEXTGRAFT_"  # of the variables from which commands read options
KEPT = (VARIABLE,)  # where models are fetched to, which changes no result


def remove_option_variables() -> list[str]:
    """Remove variables with options of commands from this process, whose jobs inherit the rest.

    A job would read them, but Snakemake would neither record them nor run a job again when they change.
    Returns the names of those that were set.
    """
    names = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in KEPT)
    for name in names:
        del os.environ[name]
    return names
