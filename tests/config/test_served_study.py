"""A study whose models are run by servers: what they cannot measure is found with the configuration."""

import json
from pathlib import Path
from typing import Any

import pytest

from contextgraft.config.resolved_study import load_study
from contextgraft.config.server.backend import UNSERVED
from contextgraft.errors import ConfigError

VLLM = {"serve": "vllm", "tensor_parallel": 8, "args": ["--kv-cache-dtype", "fp8"]}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    Path("skill.jsonl").write_text("")
    Path("sheet.tsv").write_text("name\tsource\tskill\nplain\tdemo:plain\tskill.jsonl\n")
    return {
        "study": "s",
        "base": "demo:base",
        "donor": {"source": "demo:donor"},
        "fine_tunes": "sheet.tsv",
        "ranks": [1],
        "evaluation": {"needle": {"lengths": [8]}, "backend": VLLM},
    }


def load(config: dict[str, Any]) -> Any:
    return load_study(config, "study.yaml", ("single",))


@pytest.mark.parametrize("target", [None, "plain"])
def test_every_job_gets_the_server_with_its_prompts(config: dict[str, Any], target: str | None) -> None:
    backend = load(config).evaluation(target).backend
    assert backend.model_dump(exclude_defaults=True) == VLLM


@pytest.mark.parametrize("suite", UNSERVED)
def test_a_suite_that_needs_the_weights_is_refused(config: dict[str, Any], suite: str) -> None:
    config["evaluation"] |= {suite: {"reference": "x"} if suite == "long_perplexity" else {}}
    with pytest.raises(ConfigError, match=rf"evaluation.{suite}: needs the weights .*suites without {suite}"):
        load(config)
    config["evaluation"] |= {"suites": ["needle"]}
    load(config)


def test_a_task_of_lm_eval_is_refused(config: dict[str, Any]) -> None:
    Path("sheet.tsv").write_text("name\tsource\tskill\nplain\tdemo:plain\tgsm8k\n")
    with pytest.raises(ConfigError, match=r"sheet.tsv: plain: skill: a task .* needs the weights .*gsm8k"):
        load(config)
    config["evaluation"] |= {"suites": ["needle"]}
    load(config)


def test_a_server_that_runs_already_has_one_model(config: dict[str, Any]) -> None:
    config["evaluation"] |= {"backend": {"url": "http://127.0.0.1:8000/v1/completions"}}
    with pytest.raises(ConfigError, match=r"evaluation.backend.url: a server that runs holds one model"):
        load(config)


def test_the_schema_has_the_server() -> None:
    schema = json.loads((Path(__file__).parents[2] / "config/schema.json").read_text())
    assert schema["$defs"]["ServerBackend"]["properties"].keys() >= {"serve", "tensor_parallel", "url"}
