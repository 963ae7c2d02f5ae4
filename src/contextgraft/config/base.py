"""The base of every configuration model, and reading one from YAML with one-line errors."""

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contextgraft.config.mistakes import MistakeCollector
from contextgraft.config.strict_yaml import NotYaml, parse_yaml
from contextgraft.config.text_file import beside, not_readable, read_text_file
from contextgraft.errors import ConfigError, InputError, did_you_mean

# of folders and files, whose longest names are of the form .NAME.parquet.partial
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=230)]
File = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# far above what was ever used: larger numbers are mistakes, which would end in a lack of memory
Count = Annotated[int, Field(gt=0, le=10**6)]
Tokens = Annotated[int, Field(gt=0, le=2**30)]


class Frozen(BaseModel):
    """An immutable model that rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)

    @classmethod
    def known_keys(cls) -> set[str]:
        """Top-level keys that the model accepts."""
        return set(cls.model_fields)


Model = TypeVar("Model", bound=Frozen)
Location = tuple[int | str, ...]  # of a value: keys and indices, from the top of the file
UNKNOWN = "extra_forbidden"  # pydantic's type of the error
# plain words for what pydantic says with its own; other messages stay
LISTED = {"literal_error": "expected", "union_tag_invalid": "expected_tags"}
WORD = re.compile(r"'([^']*)'")  # in pydantic's list of the values that a key takes
SECTION = "should be a section with keys"
MESSAGES = {
    "model_type": SECTION,
    "model_attributes_type": SECTION,
    "dict_type": SECTION,
    "union_tag_invalid": "{discriminator} is none of {expected_tags}",
    "union_tag_not_found": "lacks the key {discriminator}",
}


def validate(model: type[Model], data: Any, source: Path | str) -> Model:
    """Build `model` from parsed data; every mistake becomes a ConfigError that names key and source.

    Several mistakes are one SeveralMistakes, unknown keys first.
    """
    if _has_zero(data):
        raise ConfigError("a text has a zero byte in it", path=source, remedy="remove it")
    try:
        built = model.model_validate(data)
    except ValidationError as error:
        problems = _without_consequences(error.errors())
    else:
        _check_booleans(data, built, source)
        return built
    unknown = [problem for problem in problems if problem["type"] == UNKNOWN]
    missing = {problem["loc"]: problem for problem in problems if problem["type"] == "missing"}
    collector = MistakeCollector()
    for problem in unknown:
        similar = _similar_key(problem["loc"], missing)
        if similar is not None:  # the right spelling is missing because of the wrong one
            del missing[similar]
            suggestion: str | None = f"did you mean {similar[-1]}?"
        else:
            suggestion = _similar_keys(model, problem["loc"])
        known = ", ".join(_known_keys(model, problem["loc"][:-1]))
        with collector.check():
            raise ConfigError(
                f"unknown key {_key(problem['loc'])!r}",
                path=source,
                expected=None if suggestion else f"one of {known}",
                remedy=suggestion or "remove the key or correct its spelling",
            )
    for problem in problems:
        if problem["type"] == UNKNOWN or (problem["type"] == "missing" and problem["loc"] not in missing):
            continue
        value = problem.get("input")
        absent = problem["type"] == "missing"
        with collector.check():
            raise ConfigError(
                f"{_key(problem['loc'])}: {_message(problem)}",
                path=source,
                expected=_description(model, problem["loc"]) if absent else None,
                received=_received(value),
                remedy=_similar_value(problem),
            )
    collector.raise_mistakes()
    raise AssertionError("a validation error has problems")


def _check_booleans(data: Any, built: Any, source: Path | str) -> None:
    """Every boolean of the data that a model holds as a number is a mistake: pydantic reads true as 1."""
    collector = MistakeCollector()
    for location, value in _booleans_as_numbers(data, built, ()):
        with collector.check():
            raise ConfigError(
                f"{_key(location)}: is a boolean",
                path=source,
                expected="a number",
                received=str(value).lower(),
            )
    collector.raise_mistakes()


def _booleans_as_numbers(data: Any, built: Any, location: Location) -> Iterator[tuple[Location, bool]]:
    """Locations of booleans in the data whose counterparts in what was built are numbers."""
    if isinstance(data, bool):
        if isinstance(built, int | float) and not isinstance(built, bool):
            yield location, data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            inner = built.get(key) if isinstance(built, Mapping) else getattr(built, str(key), None)
            yield from _booleans_as_numbers(value, inner, (*location, key))
    elif isinstance(data, list | tuple) and isinstance(built, list | tuple):
        for index, (value, inner) in enumerate(zip(data, built, strict=False)):
            yield from _booleans_as_numbers(value, inner, (*location, index))


def _without_consequences(problems: list[Any]) -> list[Any]:
    """The problems without lists that are too short only because an item of theirs is wrong."""
    places = [problem["loc"] for problem in problems]
    return [
        problem
        for problem in problems
        if problem["type"] != "too_short"
        or not any(place[: len(problem["loc"])] == problem["loc"] != place for place in places)
    ]


def _message(problem: Mapping[str, Any]) -> str:
    """What is wrong with a value, without the prefix that pydantic puts before errors of validators."""
    if problem["type"] in MESSAGES:
        return MESSAGES[problem["type"]].format(**problem.get("ctx", {}))
    return str(problem["msg"]).removeprefix("Value error, ")


def _received(value: Any) -> str | None:
    if value is None:
        return "nothing"
    return None if isinstance(value, dict | BaseModel) else repr(value)


def _similar_value(problem: Mapping[str, Any]) -> str | None:
    """What a value that is none of a few words is a misspelling of."""
    listed = LISTED.get(problem["type"])
    if listed is None:
        return None
    return did_you_mean(
        str(problem["ctx"].get("tag", problem["input"])), WORD.findall(problem["ctx"][listed])
    )


def _key(location: Location) -> str:
    return ".".join(map(str, location)) or "(top level)"


def _similar_key(unknown: Location, missing: Iterable[Location]) -> Location | None:
    """The missing key of the same section that an unknown key is a misspelling of."""
    same = {str(place[-1]): place for place in missing if place[:-1] == unknown[:-1]}
    matches = get_close_matches(str(unknown[-1]), same, n=1)
    return same[matches[0]] if matches else None


def _description(model: type[BaseModel], location: Location) -> str | None:
    """What the schema says of a key."""
    section = _section(model, location[:-1])
    field = section.model_fields.get(str(location[-1])) if section and location else None
    return field.description if field else None


def _similar_keys(model: type[BaseModel], location: Location) -> str | None:
    return did_you_mean(str(location[-1]), _known_keys(model, location[:-1]))


def _known_keys(model: Any, location: Location) -> list[str]:
    """The keys of a section of the configuration; those of the whole where the schema does not name it."""
    section = _section(model, location)
    if section is None or section is model:
        return sorted(model.known_keys())
    return sorted(section.model_fields)


def _section(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The model of a section of the configuration, None if the schema does not name it.

    A location has keys, indices of lists, and behind these the tag of a union's member.
    """
    sections = [model]
    for key in location:
        if isinstance(key, int):
            continue
        fields = [section.model_fields[key] for section in sections if key in section.model_fields]
        inner = [kind for field in fields for kind in _types(field.annotation) if issubclass(kind, BaseModel)]
        sections = inner or [section for section in sections if not fields and _has_tag(section, key)]
    return sections[0] if sections else None


def _has_tag(section: type[BaseModel], tag: str) -> bool:
    """Whether one of the section's keys has this value only."""
    return any(get_args(field.annotation) == (tag,) for field in section.model_fields.values())


def _types(annotation: Any) -> Iterator[type]:
    """The classes of an annotation, those of a union and of the items of a list one by one."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        yield annotation
    elif get_origin(annotation) is not Literal:
        for member in get_args(annotation):
            yield from _types(member)


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
        raise InputError(
            "cannot read the configuration", path=path, expected="a YAML file",
            received=not_readable(error, path),
            remedy=beside(path) or "check the path; `contextgraft init` writes a study",
        ) from None  # fmt: skip
    try:
        return parse_yaml(text, unique=True)
    except NotYaml as error:
        raise ConfigError("not valid YAML", path=path, received=str(error)) from None


def load(model: type[Model], path: Path) -> Model:
    """Read and validate one YAML file."""
    return validate(model, read_yaml(path), path)
