"""Two ranks with AdamW's moments in host memory."""

from pathlib import Path
from typing import Any

import pytest

from ..conftest import RECIPE, write_recipe, write_recipe_folder
from .conftest import COMMAND, finish, start_ranks
from .test_resilience import SOON, STAGES, files, start_and_pause

RESULT = ("model.safetensors", "metrics.jsonl")


@pytest.mark.parametrize("resumed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_ranks_end_in_the_same_bytes(sharded: Path, tmp_path: Path, *, resumed: bool) -> None:
    changes: dict[str, Any] = {"stages": STAGES} if resumed else {}
    ends = []
    for offload in (False, True):
        folder = write_recipe_folder(tmp_path / f"offload {offload}")
        config = write_recipe(folder, optimiser=RECIPE["optimiser"] | {"offload": offload}, **changes)
        command = [*COMMAND, "--config", str(config), "--base", str(sharded), *SOON, "--out"]
        if offload and resumed:
            for process in start_and_pause(command, folder / "out"):
                process.kill()
                process.wait()
        (said, _) = finish(start_ranks([*command, str(folder / "out")], 2))
        assert ("resuming after step" in said.err) is (offload and resumed)
        ends.append([files(folder / "out")[part] for part in RESULT])
    assert ends[0] == ends[1]
