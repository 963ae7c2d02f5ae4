"""How a model's config says that its weights are quantised."""

from collections.abc import Iterator, Mapping
from typing import Any

SECTIONS = ("quantization_config", "compression_config")
UNNAMED = "of a kind it does not name"


def declared_method(config: Mapping[str, Any]) -> str | None:
    """The quantisation method that a config.json names, also for its text model; None if there is none."""
    section = next(sections(config), None)
    if section is None:
        return None
    method = section.get("quant_method")
    if method is None and {"load_in_4bit", "load_in_8bit"} & set(section):
        return "bitsandbytes"
    return str(method or UNNAMED)


def sections(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The sections of a config.json that describe a quantisation, of the whole model first."""
    for part in (config, *(config.get(key) for key in ("text_config", "llm_config", "language_config"))):
        if isinstance(part, Mapping):
            values = (part.get(key) for key in SECTIONS)
            yield from (value for value in values if isinstance(value, Mapping) and value)
