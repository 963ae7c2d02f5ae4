"""Whether a recipe fits the base that it is to train, known before any data is read."""

from collections.abc import Sequence

from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.config.training import Recipe
from contextgraft.errors import InputError
from contextgraft.formats.tensor_names import is_embedding
from contextgraft.rope import settings
from contextgraft.rope.config_form import apply_rope
from contextgraft.rope.settings import RopeSettings


def check_fits(recipe: Recipe, base: ModelFolder, rope: RopeSettings) -> None:
    """Raise InputError if the result would have a shorter context, or nothing of the embeddings is trained.

    `rope` are the base's settings.
    """
    if recipe.max_positions is not None and recipe.max_positions < rope.max_positions:
        raise InputError(
            "max_positions is less than the base has: a context never shrinks",
            expected=f"at least {rope.max_positions}",
            received=recipe.max_positions,
            remedy="remove max_positions from the recipe",
        )
    rows = min((base[name].rows for name in base.tensors if is_embedding(name)), default=None)
    if "embeddings" in recipe.trainable and rows is not None and recipe.frozen_rows >= rows:
        raise InputError(
            "frozen_rows leaves no row of the embeddings to train",
            path=base.path,
            expected=f"less than {rows}, the rows of the embeddings",
            received=recipe.frozen_rows,
            remedy="lower it, or remove embeddings from trainable",
        )


def check_ropes(base: ModelFolder, ropes: Sequence[RopeSettings]) -> None:
    """Raise InputError if transformers cannot compute the RoPE of a stage with the base's class."""
    for number, rope in enumerate(ropes):
        try:
            settings.read(apply_rope(base.config, rope), base.path)
        except InputError as error:
            raise InputError(
                f"the RoPE settings of stages.{number} do not fit the base", received=str(error)
            ) from None
