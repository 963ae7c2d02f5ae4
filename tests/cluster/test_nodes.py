"""One job on two nodes: torchrun on each, and one all-reduce over all their processes."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from contextgraft.training.trainer import TrainingOptions, train

from ..training.conftest import curve, write_demos_donor

pytestmark = pytest.mark.slow


def two_nodes(clone: Any, times: int = 1) -> Path:
    """The study's donor is the demo's, shortened, on two nodes; its recipe."""
    recipe = write_demos_donor(clone.folder / "demo", times)
    clone.config(
        base="demo:base",
        donor={"train": str(recipe.relative_to(clone.folder))},
        cluster={"gpus_per_node": 4},
        training={"nodes": 2, "processes": 2},
        evaluation={"needle": {"format": "demo/needle_base.yaml", "lengths": [64], "samples": 1}},
    )
    return recipe


def losses(folder: Path) -> list[float]:
    return [step["loss"] for step in curve(folder)]


def test_a_rule_of_two_nodes_adds_up_over_all_its_processes(clone: Any) -> None:
    here = Path(__file__).parent
    (clone.folder / "allreduce.py").symlink_to(here / "allreduce.py")
    clone.run("--snakefile", str(here / "allreduce.smk"))
    result = json.loads((clone.folder / "sum.json").read_text())
    assert result["sum"] == 1 + 2 + 3 + 4
    assert Counter(place["node"] for place in result["places"]) == {"node1": 2, "node2": 2}
    job = clone.slurm.shown(clone.jobs("allreduce")[-1])
    given = dict(pair.split("=", 1) for pair in job["TRES"].split(","))
    assert (job["NumNodes"], job["NumTasks"], given["gres/gpu"]) == ("2", "2", "4")
    assert given["mem"] == "6000M"


def test_the_demos_donor_trained_on_two_nodes_is_that_of_one_process(clone: Any) -> None:
    recipe = two_nodes(clone)
    clone.run("models")
    job = clone.slurm.shown(clone.jobs("train")[-1])
    assert (job["NumNodes"], job["JobState"]) == ("2", "COMPLETED")
    log = (clone.folder / "results/tiny/logs/train/donor-s1.log").read_text()
    assert "4 processes, 1 x 4 on a sequence, layout usp (2 nodes x 2 ranks" in log
    base, two, one = (clone.folder / "data/tiny/models" / name for name in ("base", "donor-s1", "alone"))
    train(recipe, base, one, TrainingOptions(seed=1))
    assert losses(two) == pytest.approx(losses(one), rel=2e-6)
    before, mine, theirs = (load_file(folder / "model.safetensors") for folder in (base, two, one))
    for name, tensor in before.items():  # all rounded to bfloat16
        moved = (theirs[name].float() - tensor.float()).norm()
        assert (mine[name].float() - theirs[name].float()).norm() <= 0.02 * moved, name


def test_a_training_on_two_nodes_that_is_told_to_end_goes_on(clone: Any) -> None:
    """SIGTERM to all of a job's processes, as Slurm sends it when time is up; the job comes once more."""
    recipe = two_nodes(clone, times=15)
    head = clone.start("models")
    job = clone.training()
    clone.slurm.run("scancel", "--signal=TERM", job)
    clone.end(head)
    first, second = clone.jobs("train")
    assert [clone.slurm.shown(each)["JobState"] for each in (first, second)] == ["FAILED", "COMPLETED"]
    log = (clone.folder / "results/tiny/logs/train/donor-s1.log").read_text()
    assert "resuming after step" in log
    assert "Traceback" not in log
    base, two, one = (clone.folder / "data/tiny/models" / name for name in ("base", "donor-s1", "alone"))
    train(recipe, base, one, TrainingOptions(seed=1))
    assert losses(two) == pytest.approx(losses(one), rel=2e-5)
