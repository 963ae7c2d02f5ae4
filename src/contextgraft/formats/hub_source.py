"""Sources on the Hugging Face hub, as users and sidecars write them: hf:[datasets/]OWNER/NAME[@REVISION]."""

import re

HUB = "hf:"
DATASETS = "datasets/"  # after HUB, before the name of a data set
REPOSITORY_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
HUB_SOURCE = re.compile(
    rf"{HUB}(?P<kind>{DATASETS})?(?P<name>{REPOSITORY_NAME.pattern})(@(?P<revision>[^\s@]+))?", re.ASCII
)


def hub_repository(source: object) -> str | None:
    """OWNER/NAME of a source on the hub; None for any other source, or none."""
    match = HUB_SOURCE.fullmatch(source) if isinstance(source, str) else None
    return match["name"] if match else None
