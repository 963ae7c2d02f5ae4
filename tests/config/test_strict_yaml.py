"""YAML of others: a value, or one reason; in bounded time, whatever the text."""

from pathlib import Path

import pytest

from contextgraft.config.base import read_yaml
from contextgraft.config.strict_yaml import NotYaml, parse_yaml
from contextgraft.errors import ConfigError

LEVELS = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
REFUSED = {
    "aliases of aliases": (f"a0: &a0 [x, x]\n{LEVELS}", "more than 20,000 values"),
    "merged aliases": (
        "a: &a {x: 1}\nb: &b {<<: [*a, *a]}\n" + LEVELS.replace("a", "c").replace("*c0", "*b"),
        "more than 20,000",
    ),
    "a list in itself": ("a: &a [*a]", "more than 20,000 values"),
    "a mapping in itself": ("&a {x: *a}", "more than 20,000 values"),
    "nested lists": ("[" * 300, "too deep nesting"),
    "nested mappings": ("".join(f"{' ' * n}a:\n" for n in range(300)), "too deep nesting"),
    "a number of 10,000 digits": ("x: " + "9" * 10_000, "digits"),
    "a hexadecimal number of 6,000 digits": ("x: 0x" + "f" * 6000, "an integer of 6,002 digits"),
    "a number to the base 60": ("x: !!int " + ":".join("1" * 10), "base 60: '1:1:1"),
    "a float to the base 60": ("x: !!float " + ":".join("1" * 100_000), "base 60: '1:1:1"),
    "a number without digits": ("x: !!int ''", "index out of range"),
    "no month 99": ("x: 9999-99-99", "month"),
    "no number": ("x: !!int z", "invalid literal"),
    "no time": ("x: !!timestamp z", "groupdict"),
    "no truth": ("x: !!bool z", "z"),
    "code": ("!!python/object/apply:os.system [x]", "could not determine a constructor"),
    "two documents": ("a: 1\n---\nb: 1", "single document"),
    "a zero byte": ("a: \0", "special characters"),
    "a key twice": ("a: 1\nb: 2\na: 3", "the key 'a' twice, line 3"),
    "an inner key twice": ("x: [{b: 1, b: 2}]", "the key 'b' twice, line 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    text, words = REFUSED[name]
    with pytest.raises(NotYaml, match=words):
        parse_yaml(text, unique=True)
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml: not valid YAML; received") as error:
        read_yaml(tmp_path / "c.yaml")
    assert str(error.value).isprintable()


def test_what_is_read() -> None:
    assert parse_yaml("a: &b {c: 1}\nd: *b\ne: {<<: *b, f: [1, x]}", unique=True) == {
        "a": {"c": 1}, "d": {"c": 1}, "e": {"c": 1, "f": [1, "x"]},
    }  # fmt: skip
    assert parse_yaml("") is None
    numbers = "[0x1f, 017, -3, +4, 1_000, 2.5, 1.e+3, .inf, 0b11]"
    assert parse_yaml(numbers) == [31, 15, -3, 4, 1000, 2.5, 1000.0, float("inf"), 3]
    assert parse_yaml("[1:30, 1:30.5]") == ["1:30", "1:30.5"]
    many = ":".join(["1"] * 1_000_000)
    assert parse_yaml(f"a: {many}") == {"a": many}
    assert parse_yaml("a: 1\na: 2") == {"a": 2}
