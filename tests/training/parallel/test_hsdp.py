"""HSDP: weights in several replicas, each sharded over some of the ranks."""

from pathlib import Path
from typing import Any

import pytest

from contextgraft.errors import InputError
from contextgraft.training.parallel.communication import weight_mesh
from contextgraft.training.trainer import train

from ..conftest import write_recipe
from .conftest import COMMAND, Run, finish, start_ranks
from .jobs import TIMEOUT
from .test_exact import LORA, small
from .test_resilience import SOON, STAGES, assert_the_same_end, start_and_pause

__all__ = ["small"]  # a fixture


def test_the_engine_has_every_gradient_of_one_process(ranks: Run, small: tuple[Path, int]) -> None:
    base, _ = small
    recipes: list[tuple[dict[str, Any], int]] = [({}, 2), ({"frozen_rows": 5}, 2), (LORA, 2), ({}, 4)]
    cases = [
        {"recipe": recipe, "shape": (3, 89), "layout": "flat", "per_node": 2, "context": context}
        | {"rows": 1, "replicate": replicate, "once": replicate == 4 or "lora" in recipe}
        for recipe, replicate in recipes
        for context in (2, 4)
    ]
    for case, result in zip(cases, ranks(4, "gradients", base=str(base), cases=cases)[0], strict=True):
        assert result["counts"], (case, result)
        assert result["loss"] < 2e-6, (case, result)
        assert max(result["gradient"], result["norm"]) < 1e-5, (case, result)
        assert result["sums_over_replicas"] == 4, (case, result)  # once a batch, three layers and the rest


@pytest.mark.slow
def test_a_run_that_resumes_on_other_replicas_is_that_of_one_process(
    sharded: Path, recipe_folder: Path, tmp_path: Path
) -> None:
    """Two replicas of one shard until a checkpoint, then two of two."""
    recipe, out = write_recipe(recipe_folder, stages=STAGES), tmp_path / "out"
    train(recipe, sharded, tmp_path / "alone")
    files = ["--config", str(recipe), "--base", str(sharded), *SOON, "--data-parallel-replicate", "2"]
    command = [*COMMAND, *files, "--out"]
    for process in start_and_pause(command, out):
        process.kill()
        process.wait()
    said = finish(start_ranks([*command, str(out)], 4))
    assert "resuming after step" in said[0].err
    assert_the_same_end(out, tmp_path / "alone", sharded)


def test_replicas_that_do_not_divide_the_ranks_are_refused() -> None:
    with pytest.raises(InputError, match="expected a divisor of 4; received 3"):
        weight_mesh(4, 3, "cpu", TIMEOUT)
