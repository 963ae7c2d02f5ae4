"""What all model cards for the Hugging Face hub have in common: metadata, escaping, tables, model names."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from contextgraft.formats.hub_source import hub_repository

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
    text = " ".join(str(value).split())
    return "".join(f"\\{letter}" if letter in MARKUP else letter for letter in text)


def inline_code(value: object) -> str:
    """Text as code in a table cell, at most 200 characters; characters that end code or cell are removed."""
    text = "".join(letter for letter in str(value)[:200] if letter.isprintable() and letter not in "`|")
    return f"`{text}`" if text else ""
