"""One job on two nodes: torchrun on each, and one all-reduce over all their processes."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

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
