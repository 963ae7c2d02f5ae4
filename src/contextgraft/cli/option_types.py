"""Numbers and words as values of options; help and errors say in words which are taken."""

import math
import re
from typing import Any

import click
from typing_extensions import override

from contextgraft.errors import did_you_mean

SEPARATOR = re.compile(r"[\s,;|]")  # between values that were given as one


class WholeNumber(click.IntRange):
    """An integer within bounds."""

    name, plural = "integer", "whole numbers"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(expected("a whole number", self, value) + repeat(value, param), param, ctx)

    @override
    def _describe_range(self) -> str:
        return bounds(self)


class RealNumber(click.FloatRange):
    """A finite number within bounds."""

    name, plural = "number", "numbers"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number: float = super().convert(value, param, ctx)
        except click.BadParameter:
            number = math.nan
        if not math.isfinite(number):
            self.fail(expected("a number", self, value) + repeat(value, param), param, ctx)
        return number

    @override
    def _describe_range(self) -> str:
        return bounds(self)


COUNT = WholeNumber(min=1)


class NumberList(click.ParamType[tuple[float, ...]]):
    """Comma-separated numbers of one type, without repetition."""

    def __init__(self, number: WholeNumber | RealNumber, name: str) -> None:
        self.number = number
        self.name = name

    @override
    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        numbers = tuple(self._number(item.strip(), value) for item in value.split(","))
        if len(set(numbers)) < len(numbers):
            self.fail(f"expected each number once; received {value!r}", param, ctx)
        return numbers

    def _number(self, item: str, value: str) -> float:
        try:
            return self.number.convert(item, None, None)
        except click.BadParameter:
            limits = bounds(self.number)
            each, where = f", each {limits}" if limits else "", f" in {value!r}" if item != value else ""
            raise click.BadParameter(
                f"expected {self.number.plural} separated by commas{each}; received {item!r}{where}"
            ) from None


def bounds(number: WholeNumber | RealNumber) -> str:
    """The bounds of a type in words; "" without any."""
    lowest = "" if number.min is None else f"{'more than' if number.min_open else 'at least'} {number.min:,}"
    highest = "" if number.max is None else f"at most {number.max:,}"
    if lowest and highest and not number.min_open:
        return f"{number.min:,} to {number.max:,}"
    return ", ".join(filter(None, (lowest, highest)))


def expected(what: str, number: WholeNumber | RealNumber, value: Any) -> str:
    """The words of an error about a value."""
    limits = bounds(number)
    return f"expected {what}{', ' if limits else ''}{limits}; received {str(value)!r}"


def repeat(value: Any, parameter: click.Parameter | None) -> str:
    """The remedy for several values in one word, if the option is repeated instead; else empty."""
    if not getattr(parameter, "multiple", False) or not SEPARATOR.search(str(value)):
        return ""
    assert parameter is not None
    return f"; for several values repeat {parameter.opts[0]}"


class Choice(click.Choice[str]):
    """One of a few words; the error names the word that a misspelt one is similar to."""

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            self.fail(error.message.removesuffix(".") + repeat(value, param), param, ctx)

    @override
    def get_invalid_choice_message(self, value: object, ctx: click.Context | None) -> str:
        message = super().get_invalid_choice_message(value, ctx)
        suggestion = did_you_mean(str(value), self.choices)
        return f"{message.removesuffix('.')}; {suggestion}" if suggestion else message
