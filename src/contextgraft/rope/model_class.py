"""What transformers makes of a config.json: every default of the model's own config class filled in."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from contextgraft.errors import InputError
from contextgraft.rope.text_section import section_name


@dataclasses.dataclass(frozen=True)
class ClassConfig:
    """The language model's settings as transformers resolves them; `fields` are those that its class has."""

    name: str
    values: Mapping[str, Any]
    fields: frozenset[str]


def resolve(config: Mapping[str, Any]) -> ClassConfig | None:
    """The settings that transformers derives from the whole config, aliases of keys included.

    None if transformers is not installed or has no class for `model_type`: code of a repository is never run.
    A config that the class refuses raises InputError. Imports transformers, and torch with it.
    """
    return _resolve(json.dumps(config, sort_keys=False, default=str))


def has_class(config: Mapping[str, Any]) -> bool:
    """Whether transformers is installed and has a class for `model_type`."""
    try:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    except ImportError:
        return False
    return config.get("model_type") in CONFIG_MAPPING


def class_value(config: Mapping[str, Any], key: str, absent: Any) -> Any:
    """What transformers' class of the whole model has for a key, its default where the config lacks it.

    `absent` for a class without such a key; None without transformers or a class, and for a config that the
    class refuses.
    """
    try:
        built = _build(json.dumps(config, sort_keys=False, default=str))
    except InputError:
        return None
    return None if built is None else getattr(built, key, absent)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from logging and from drawing progress bars; both are restored at the end."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@lru_cache(maxsize=32)
def _build(text: str) -> Any:
    """The config as its class builds it; None without transformers or a class."""
    config = json.loads(text, object_hook=infinite)
    if not has_class(config):
        return None
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[config["model_type"]]
    try:
        with quiet_transformers():
            return config_class.from_dict(config)
    except Exception as error:  # whatever a class raises about values that it does not accept
        raise _refused(config_class.__name__, error) from None


@lru_cache(maxsize=32)
def _resolve(text: str) -> ClassConfig | None:
    whole = _build(text)
    if whole is None:
        return None
    section = section_name(json.loads(text))
    try:
        built = whole
        for name in section.split(".")[:-1]:
            built = getattr(built, name)
        if not section:
            built = built.get_text_config(decoder=True)
        values = built.to_dict()
    except Exception as error:  # as above
        raise _refused(type(whole).__name__, error) from None
    aliases = getattr(built, "attribute_map", {})
    values |= {alias: values[real] for alias, real in aliases.items() if real in values}
    fields = (
        {field.name for field in dataclasses.fields(built)} if dataclasses.is_dataclass(built) else values
    )
    return ClassConfig(type(built).__name__, values, frozenset({*fields, *aliases}))


def _refused(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(f"config.json cannot be read by transformers ({name})", received=reason[:300])


def infinite(value: dict[str, Any]) -> Any:
    """A number that JSON lacks, as transformers writes it."""
    return float(value["__float__"]) if set(value) == {"__float__"} else value
