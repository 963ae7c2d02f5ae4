"""Where the settings of the language model are in a config.json: at the top, or nested in `text_config`."""

from collections.abc import Iterator, Mapping
from typing import Any

# names under which configs of multimodal models hold the language model's settings
TEXT_SECTIONS = ("text_config", "llm_config", "language_config", "thinker_config")


def text_section(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The innermost mapping with the language model's settings; `config` itself if nothing is nested."""
    *_, (_, section) = _levels(config)
    return section


def section_name(config: Mapping[str, Any]) -> str:
    """The path of the language model's settings, with a final dot: "" or "text_config."."""
    *_, (name, _) = _levels(config)
    return name


def replace_text_section(config: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the config in which `section` is the language model's settings.

    transformers 4.52 to 4.57 wrote the same keys at the top, too: those that are there get the new values.
    """
    name = next((name for name in TEXT_SECTIONS if isinstance(config.get(name), Mapping)), None)
    if name is None:
        return dict(section)
    before = text_section(config)
    changed = {
        key: section.get(key) for key in config if key in before and before[key] != section.get(key, ...)
    }
    return {**config, **changed, name: replace_text_section(config[name], section)}


def _levels(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    name = ""
    yield name, config
    while True:
        inner = next((key for key in TEXT_SECTIONS if isinstance(config.get(key), Mapping)), None)
        if inner is None:
            return
        name, config = f"{name}{inner}.", config[inner]
        yield name, config
