"""Graft the long context of one language model onto any fine-tune of the same base."""

__version__ = "0.1.0"
