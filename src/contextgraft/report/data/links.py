"""Addresses of single samples on the page: a part of the page and a filter, which the script reads."""

from urllib.parse import urlencode

PLACE = "#samples"


def link(**wanted: object) -> str:
    """The address of the samples that match: `#samples?tune=style&row=graft+r8`; None matches all."""
    return f"{PLACE}?{urlencode({name: text(value) for name, value in wanted.items() if value is not None})}"


def text(value: object) -> str:
    """A value as the filters write it: whole numbers without a decimal point."""
    return f"{value:g}" if isinstance(value, float) else str(value)
