"""What all model cards for the Hugging Face hub have in common: metadata, licence, escaping, tables."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.strict_json import open_regular
from contextgraft.errors import printable
from contextgraft.formats.hub_source import hub_repository

CARD = "README.md"
LICENCE_KEYS = ("license", "license_name", "license_link")
MAX_CARD = 1 << 20  # bytes
MARKUP = "\\`*_{}[]<>()#+!|~"  # characters with a meaning in Markdown


def front_matter(base_model: str | None, relation: str, library: str, **more: Any) -> str:
    """The metadata block that the hub reads, between two lines of ---.

    `relation` is the hub's term for how the model was made from `base_model` (adapter, merge, finetune); both
    are omitted for a base that is not on the hub. `library` is the one that loads the model.
    """
    base = {} if base_model is None else {"base_model": base_model, "base_model_relation": relation}
    metadata = {
        **base,
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["contextgraft", "long-context"],
        **more,
    }
    import yaml

    return f"---\n{yaml.safe_dump(metadata, sort_keys=True, allow_unicode=True, width=110)}---\n"


def repository_or_name(identity: Mapping[str, Any]) -> str:
    """The hub repository of a model as a sidecar identifies it, otherwise its name (KeyError without one)."""
    return hub_repository(identity.get("source")) or str(identity["name"])


def table(header: str, rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown; `header` is its first line."""
    separator = "|" + "---|" * (header.count("|") - 1)
    return "\n".join([header, separator, *(f"| {' | '.join(cells)} |" for cells in rows)])


def escape(value: object) -> str:
    """Text that Markdown shows unchanged on one line: no markup, table cell or link in it."""
    text = printable(" ".join(str(value).split()))
    return "".join(f"\\{letter}" if letter in MARKUP else letter for letter in text)


def inline_code(value: object) -> str:
    """Text as code in a table cell, at most 200 characters; characters that end code or cell are removed."""
    text = "".join(letter for letter in str(value)[:200] if letter.isprintable() and letter not in "`|")
    return f"`{text}`" if text else ""


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
    """The licence that a card file states; empty if it states none or cannot be read."""
    try:
        with open_regular(card) as file:
            text = file.read(MAX_CARD).decode("utf-8", "replace")
    except OSError:
        return {}
    return licence_of(card_metadata(text))
