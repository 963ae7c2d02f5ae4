"""YAML of others: parsed safely, within limits."""

from typing import Any

import yaml
from typing_extensions import override

MAX_TEXT = 5_000_000  # characters
MAX_VALUES = 20_000  # with those that aliases repeat
MAX_DEPTH = 100
MAX_DIGITS = 40  # of an integer: thousands in hexadecimal cannot be written in a message
TAG = "tag:yaml.org,2002:"
NUMBERS = (f"{TAG}int", f"{TAG}float")


class NotYaml(ValueError):  # noqa: N818 - named for what the text is
    """A text that is not YAML, or not within the limits; the message says what it is instead."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which stops at a depth and after so many values."""

    depth = values = 0

    @override
    def compose_node(self, parent: yaml.Node | None, index: Any) -> Any:
        self.depth += 1
        self.values += 1
        if self.depth > MAX_DEPTH:
            raise NotYaml("too deep nesting")
        if self.values > MAX_VALUES:
            raise NotYaml(f"more than {MAX_VALUES:,} values")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    @override
    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """The tag of a value; what YAML 1.1 reads as a number to the base 60, such as 1:30, is a text."""
        tag = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        return f"{TAG}str" if tag in NUMBERS and ":" in value else tag

    def integer(self, node: yaml.ScalarNode) -> int:
        """The value of a scalar with the tag of integers."""
        text = str(self.construct_scalar(node))
        if len(text) > MAX_DIGITS:
            raise NotYaml(f"an integer of {len(text):,} digits, more than {MAX_DIGITS}")
        _check_base(text)
        return self.construct_yaml_int(node)

    def real(self, node: yaml.ScalarNode) -> float:
        """The value of a scalar with the tag of floats."""
        _check_base(str(self.construct_scalar(node)))
        return self.construct_yaml_float(node)


for _tag, _read in zip(NUMBERS, (_Loader.integer, _Loader.real), strict=True):
    _Loader.add_constructor(_tag, _read)


def _check_base(number: str) -> None:
    if ":" in number:
        raise NotYaml(f"a number to the base 60: {number[:80]!r}")


def parse_yaml(text: str, *, unique: bool = False) -> Any:
    """The value of one YAML document, of plain types only; NotYaml for anything else.

    With `unique`, no mapping may have a key twice.
    """
    if len(text) > MAX_TEXT:
        raise NotYaml(f"a text of {len(text):,} characters, more than {MAX_TEXT:,}")
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, unique=unique)
        return loader.construct_document(node)
    except NotYaml:
        raise
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        # the constructors of PyYAML raise any of these for `!!int x`
        raise NotYaml(str(error) or type(error).__name__) from None
    finally:
        if loader is not None:
            loader.dispose()


def _count(node: yaml.Node, known: dict[int, int], *, unique: bool) -> int:
    """The values in a node, with each alias counted in full; NotYaml if they are too many."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MAX_VALUES + 1  # an alias inside its own anchor has no end
    total = 1
    if isinstance(node, yaml.MappingNode):
        if unique:
            _check_keys(node)
        total += sum(_count(part, known, unique=unique) for pair in node.value for part in pair)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_count(item, known, unique=unique) for item in node.value)
    if total > MAX_VALUES:
        raise NotYaml(f"more than {MAX_VALUES:,} values, counting what aliases repeat")
    known[id(node)] = total
    return total


def _check_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            raise NotYaml(f"the key {key.value[:80]!r} twice, line {key.start_mark.line + 1}")
        seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
