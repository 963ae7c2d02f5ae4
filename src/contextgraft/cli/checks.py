"""Options that only the libraries behind them can judge."""

import re

import click

DEVICES = ("cpu", "cuda")


def checked_pattern(option: str, pattern: str) -> str:
    """A regular expression that compiles."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise click.BadParameter(f"is no regular expression: {error}", param_hint=option) from None
    return pattern


def checked_device(device: str) -> str:
    """A device that torch knows and this machine has."""
    import torch

    if device.partition(":")[0] not in DEVICES:
        raise click.BadParameter(
            f"{device!r} cannot be used; expected {' or '.join(DEVICES)}", param_hint="--device"
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise click.BadParameter(f"{device!r} cannot be used: {reason}", param_hint="--device") from None
    return device
