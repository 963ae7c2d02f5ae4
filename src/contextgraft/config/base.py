"""The base of every configuration model, and reading one from YAML with one-line errors."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contextgraft.config.text_file import read_text_file
from contextgraft.errors import ConfigError, InputError

# of folders and files, whose longest names are of the form .NAME.parquet.partial
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=230)]
File = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Frozen(BaseModel):
    """An immutable model that rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @classmethod
    def known_keys(cls) -> set[str]:
        """Top-level keys that the model accepts."""
        return set(cls.model_fields)


Model = TypeVar("Model", bound=Frozen)


def validate(model: type[Model], data: Any, source: Path | str) -> Model:
    """Build `model` from parsed data; the first problem becomes one ConfigError that names key and source."""
    if _has_zero(data):
        raise ConfigError("a text has a zero byte in it", path=source, remedy="remove it")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # A misspelt key also leaves its right name missing; the spelling is what the user can correct.
        first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"]) or "(top level)"
        if first["type"] == "extra_forbidden":
            raise ConfigError(
                f"unknown key {key!r}",
                path=source,
                expected=f"one of {', '.join(sorted(model.known_keys()))} (or a key of the section)",
                remedy="remove the key or correct its spelling",
            ) from None
        value = first.get("input")
        received = None if isinstance(value, dict | BaseModel) else repr(value)
        raise ConfigError(f"{key}: {first['msg']}", path=source, received=received) from None


def _has_zero(value: Any) -> bool:
    """Whether a zero byte, which no path and no argument of a command may have, is in any text."""
    if isinstance(value, dict):
        return any(_has_zero(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple):
        return any(map(_has_zero, value))
    return isinstance(value, str) and "\0" in value


def read_yaml(path: Path) -> Any:
    """Parse one YAML file; unreadable or malformed files raise InputError or ConfigError."""
    try:
        text = read_text_file(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot read the configuration", path=path, received=str(error)) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError("not valid YAML", path=path, received=str(error)) from None


def load(model: type[Model], path: Path) -> Model:
    """Read and validate one YAML file."""
    return validate(model, read_yaml(path), path)
