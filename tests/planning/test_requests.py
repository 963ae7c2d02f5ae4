"""A study's numbers reach the formulas, and every rule of the workflow has a request."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from contextgraft.config.cluster import Cluster
from contextgraft.config.resolved_study import load_study
from contextgraft.config.study import Evaluation
from contextgraft.errors import ConfigError
from contextgraft.planning.model_shape import Shape
from contextgraft.planning.requests import ASSUMED, Demands, demands, prompts, shape_of
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS

ROOT = Path(__file__).parents[2]
LARGE = Shape(80, 8192, 28672, 64, 8, 128, 128256, tied=False)
NEEDLE = {"format": "x.yaml", "lengths": [64, 128], "depths": [0, 50, 100], "samples": 2, "seed": 1}


def demo(monkeypatch: pytest.MonkeyPatch, shape: Shape = ASSUMED, **cluster: Any) -> Demands:
    monkeypatch.chdir(ROOT)
    study = load_study(
        yaml.safe_load(Path("config/config.yaml").read_text()),
        "config/config.yaml",
        NEEDLE_KINDS,
    )
    return demands(study, shape, Cluster(**cluster))


def test_every_rule_of_the_workflow_has_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    files = (ROOT / "workflow/rules").glob("*.smk")
    rules = {name for path in files for name in re.findall(r"^rule (\w+):", path.read_text(), re.MULTILINE)}
    asked = demo(monkeypatch)
    assert {*asked.rules, "train"} == rules
    assert "donor-s1" in asked.training


def test_prompts_of_every_suite_are_counted() -> None:
    asked = Evaluation.model_validate(
        {
            "needle": NEEDLE,
            "skill": {"samples": 5},
            "ruler": {"lengths": [128], "samples": 10, "tasks": ["vt", "cwe"]},
            "perplexity": {"lengths": [256], "documents": 3},
            "divergence": {"length": 32, "prompts": 7},
        }
    )
    assert prompts(asked) == {64: 6, 128: 6 + 20, 256: 3, 32: 7}
    assert prompts(Evaluation.model_validate({"needle": NEEDLE, "skill": {"samples": 5}})) == {64: 6, 128: 6}


def test_a_job_asks_for_its_own_numbers_and_for_more_when_it_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = demo(monkeypatch, LARGE, gpus_per_node=8)
    first = asked.of("extract", None, 1)
    again = asked.of("extract", None, 2)
    assert (first["mem_mb"], again["mem_mb"]) == (4000, 8000)
    assert again["runtime"] == 2 * asked.rules["extract"].minutes
    trained = asked.of("train", "donor-s1", 1)
    assert (trained["nodes"], trained["gres"], trained["gpu"]) == (4, "gpu:8", None)


def test_prompts_that_no_node_can_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="need the memory of"):
        demo(monkeypatch, LARGE, gpus_per_node=1)


def test_the_shape_is_the_named_one_or_the_bases_or_a_small_one(tmp_path: Path) -> None:
    text = (
        '{"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24,'
        ' "num_attention_heads": 2, "vocab_size": 18}'
    )
    (tmp_path / "config.json").write_text(text)
    assert shape_of(str(tmp_path), "demo:base").layers == 2
    assert shape_of(None, str(tmp_path)).layers == 2
    assert shape_of(None, "demo:base") == ASSUMED


def test_nodes_and_processes_of_a_training_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load(Path("config/config.yaml").read_text())
    study = load_study(
        {**config, "training": {"nodes": 2, "processes": 3}}, "config/config.yaml", NEEDLE_KINDS
    )
    with_gpus = demands(study, ASSUMED, Cluster(gpus_per_node=4))
    asked = with_gpus.of("train", "donor-s1", 1)
    assert (asked["nodes"], asked["gres"]) == (2, "gpu:3")
    assert with_gpus.launch("donor-s1", 3) == (2, 3)
    without = demands(study, ASSUMED, Cluster()).of("train", "donor-s1", 1)
    assert (without["nodes"], without["gres"], without["tasks_per_gpu"]) == (2, None, None)
