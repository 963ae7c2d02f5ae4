"""Fixtures of the packages whose costs are planned."""

from ..evaluation.conftest import make_model
from ..training.conftest import base, recipe_folder
from ..training.parallel.conftest import ranks

__all__ = ["base", "make_model", "ranks", "recipe_folder"]
