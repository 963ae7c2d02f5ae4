"""The licence in the metadata of a model card: what a model made from another inherits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CARD = "README.md"
KEYS = ("license", "license_name", "license_link")
MAX_CARD = 1 << 20  # bytes


def card_metadata(text: str) -> dict[str, Any]:
    """The metadata between the first two lines of ---; empty if there are none, or they are not YAML."""
    lines = text.lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    end = next((number for number, line in enumerate(lines[1:], 1) if line.strip() == "---"), None)
    try:
        data = yaml.safe_load("\n".join(lines[1:end])) if end else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def licence_of(metadata: Mapping[str, Any], repository: str | None = None) -> dict[str, str]:
    """The keys of a licence; a link to a file of `repository` becomes an address, others are left out."""
    licence = {key: metadata[key] for key in KEYS if isinstance(metadata.get(key), str) and metadata[key]}
    link = licence.get("license_link")
    if link is not None and "://" not in link:
        licence.pop("license_link")
        if repository is not None:
            licence["license_link"] = f"https://huggingface.co/{repository}/blob/main/{link}"
    return licence


def read_licence(card: Path) -> dict[str, str]:
    """The licence that a card file states; empty if it states none or cannot be read."""
    try:
        with card.open("rb") as file:
            text = file.read(MAX_CARD).decode("utf-8", "replace")
    except OSError:
        return {}
    return licence_of(card_metadata(text))
