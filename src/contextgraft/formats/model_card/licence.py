"""The licence that a model card states, and what licences of known models demand of derived models."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextgraft.config.text_file import open_regular
from contextgraft.errors import raise_read_error

CARD = "README.md"
LICENCE_KEYS = ("license", "license_name", "license_link")
MAX_CARD = 1 << 20  # bytes


@dataclass(frozen=True)
class LicenceTerms:
    """What a licence demands of derived models: a notice, a phrase to show, how the name begins."""

    notice: str
    display: str | None = None
    name_begins: str | None = None


def _llama(version: str, display: str, name: str, product: str = "Llama") -> LicenceTerms:
    return LicenceTerms(
        f"{product} {version} is licensed under the {product} {version} Community License, Copyright © Meta "
        "Platforms, Inc. All Rights Reserved.",
        display,
        name,
    )


# by the hub's identifier; the words are those of the licences
TERMS: Mapping[str, LicenceTerms] = {
    "llama2": LicenceTerms(
        "Llama 2 is licensed under the LLAMA 2 Community License, Copyright © Meta Platforms, Inc. All "
        "Rights Reserved."
    ),
    "llama3": _llama("3", "Built with Meta Llama 3", "Llama 3", "Meta Llama"),
    "llama3.1": _llama("3.1", "Built with Llama", "Llama"),
    "llama3.2": _llama("3.2", "Built with Llama", "Llama"),
    "llama3.3": _llama("3.3", "Built with Llama", "Llama"),
    "llama4": _llama("4", "Built with Llama", "Llama"),
    "gemma": LicenceTerms(
        "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
    ),
}


def terms_of(licence: Mapping[str, Any]) -> LicenceTerms | None:
    """The demands of a licence by its identifier or name; None for one that is not known here."""
    names = (str(licence.get(key, "")).lower() for key in ("license", "license_name"))
    return next((TERMS[name] for name in names if name in TERMS), None)


def name_fits(name: str, terms: LicenceTerms | None) -> bool:
    """Whether the name of a derived model begins as its licence demands; punctuation does not count."""
    if terms is None or terms.name_begins is None:
        return True
    plain, begins = (re.sub(r"[^a-z0-9]", "", text.lower()) for text in (name, terms.name_begins))
    return plain.startswith(begins)


def card_metadata(text: str) -> dict[str, Any]:
    """The metadata between the first two lines of ---; empty if there are none, or they are not YAML."""
    lines = text.lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    end = next((number for number, line in enumerate(lines[1:], 1) if line.strip() == "---"), None)
    from contextgraft.config.strict_yaml import NotYaml, parse_yaml

    try:
        data = parse_yaml("\n".join(lines[1:end])) if end else None
    except NotYaml:
        return {}
    return data if isinstance(data, dict) else {}


def licence_of(metadata: Mapping[str, Any], repository: str | None = None) -> dict[str, str]:
    """The keys of a licence; a link to a file of `repository` becomes an address, others are left out."""
    licence = {
        key: metadata[key] for key in LICENCE_KEYS if isinstance(metadata.get(key), str) and metadata[key]
    }
    link = licence.get("license_link")
    if link is not None and "://" not in link:
        licence.pop("license_link")
        if repository is not None:
            licence["license_link"] = f"https://huggingface.co/{repository}/blob/main/{link}"
    return licence


def read_licence(card: Path) -> dict[str, str]:
    """The licence that a card file states; empty if it states none, or is no file."""
    try:
        with open_regular(card) as file:
            text = file.read(MAX_CARD).decode("utf-8", "replace")
    except OSError as error:
        raise_read_error(error, card)
        return {}
    return licence_of(card_metadata(text))
