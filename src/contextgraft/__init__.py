"""Graft the long context of one language model onto any fine-tune of the same base."""

from contextgraft._version import __version__

__all__ = ["__version__"]
