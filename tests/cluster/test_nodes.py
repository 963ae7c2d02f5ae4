"""One job on two nodes: torchrun on each, and one all-reduce over all their processes."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.slow


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


def test_a_donor_trained_on_two_nodes_is_the_donor_trained_on_one(undisturbed: Any, clone: Any) -> None:
    clone.config(cluster={"gpus_per_node": 4}, training={"nodes": 2, "processes": 2})
    clone.run("models")
    job = clone.slurm.shown(clone.jobs("train")[-1])
    assert (job["NumNodes"], job["JobState"]) == ("2", "COMPLETED")
    log = (clone.folder / "results/tiny/logs/train/donor-s1.log").read_text()
    assert "4 processes, 1 x 4 on a sequence, layout double (2 nodes x 2 ranks" in log
    one, two = (
        load_file(place.folder / "data/tiny/models/donor-s1/model.safetensors")
        for place in (undisturbed, clone)
    )
    base = load_file(clone.folder / "data/tiny/models/base/model.safetensors")
    for name, tensor in one.items():
        moved = (tensor.float() - base[name].float()).norm()
        assert (tensor.float() - two[name].float()).norm() <= 0.02 * moved, name
