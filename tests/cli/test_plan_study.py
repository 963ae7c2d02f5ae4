"""`contextgraft plan study`: a study's bytes, hours, memory and disk, checked by hand."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from contextgraft.cli.commands.plan import command
from contextgraft.cli.plan_tables import _disk_lines
from contextgraft.errors import ConfigError
from contextgraft.planning.study import count_models, peak_here, plan_study, read_study

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "config/studies").glob("*.yaml"))
SIZE_70B = 141_107_412_992


SHAPES = "src/contextgraft/planning/shapes"
LARGE: dict[str, Any] = {
    "study": "large",
    "base": "hf:owner/base",
    "donor": {"source": "hf:owner/donor"},
    "shape": f"{SHAPES}/llama3-70b.json",
    "fine_tunes": "config/studies/llama3/fine_tunes-70b.tsv",
    "ranks": [32, 128],
    "keep_grafts": "none",
    "evaluation": {
        "needle": {
            "format": "config/studies/llama3/needle.yaml",
            "lengths": [8192, 2**20],
            "depths": [0, 25, 50, 75, 100],
            "samples": 10,
            "distractors": 4,
            "seed": 1,
        },
        "ruler": {"lengths": [4096, 131072], "samples": 25},
        "perplexity": {"lengths": [8192], "documents": 2},
        "divergence": {"length": 4096, "prompts": 50},
        "skill": {"samples": 200},
    },
    "threads": {"extract": 32, "merge": 16},
    "cluster": {"gpus_per_node": 8, "device": "cuda", "node_memory": 1000, "disk": 1.0, "longest": 2880},
}
SERVED: dict[str, Any] = {"needle": LARGE["evaluation"]["needle"], "suites": ["needle"]}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A study of 70B with three fine-tunes, one of which keeps all of its grafts."""
    return changed(tmp_path / "large.yaml")


def run(*words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)


def facts(path: Path, *words: object) -> dict[str, Any]:
    done = run("study", path, "--json", *words)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def changed(where: Path, **keys: Any) -> Path:
    """The large study with other keys."""
    where.write_text(yaml.safe_dump(LARGE | keys))
    return where


@pytest.mark.parametrize("path", [ROOT / "config/config.yaml", *STUDIES], ids=lambda path: path.stem)
def test_every_shipped_study_can_be_planned(path: Path) -> None:
    found = plan_study(read_study(path))
    assert found.study.settings.study == ("demo" if path.stem == "config" else path.stem)
    assert all(step.seconds > 0 and step.jobs > 0 for step in found.steps)
    assert run("study", path).exit_code == 0


def test_bytes_jobs_and_disk_follow_from_models_ranks_and_targets(large: Path) -> None:
    found = facts(large)
    steps = {step["name"]: step for step in found["steps"]}
    targets, ranks = found["targets"], len(found["adapters"])
    assert (targets, ranks) == (3, 2)
    assert steps["fetch"]["jobs"] == 2 + targets
    assert steps["fetch"]["written"] == (2 + targets) * SIZE_70B
    assert steps["extract"]["read"] == 2 * SIZE_70B
    adapters = sum(found["adapters"].values()) + ranks * found["adapter_dense_bytes"]
    assert steps["extract"]["written"] == adapters == found["disk"]["adapters"]
    assert steps["evaluate"]["jobs"] == targets
    assert steps["evaluate"]["read"] == targets * (2 * SIZE_70B + adapters)
    assert steps["merge"]["jobs"] == ranks + 1  # the sheet keeps all grafts of one
    assert steps["merge"]["written"] == (ranks + 1) * SIZE_70B
    fixed = (2 + targets) * SIZE_70B + adapters
    disk = found["disk"]
    assert disk["all_kept"] == fixed + targets * (ranks + 1) * SIZE_70B
    assert disk["none_kept"] == fixed
    assert disk["peak"] == fixed + (ranks + 1) * SIZE_70B


def test_the_study_or_the_sheet_says_which_grafts_are_kept(tmp_path: Path) -> None:
    every = facts(changed(tmp_path / "all.yaml", keep_grafts=True))["disk"]
    assert every["kept_grafts"] == 3 * 3
    assert every["peak"] == every["all_kept"]
    one = facts(changed(tmp_path / "one.yaml", keep_grafts="recommended"))["disk"]
    assert one["kept_grafts"] == 3 + 2  # the sheet keeps all of one
    assert facts(changed(tmp_path / "one.yaml"), "--at-once", 2)["disk"]["kept_grafts"] == 3


@pytest.mark.parametrize(
    ("backend", "models"),
    [
        ({"serve": "vllm", "tensor_parallel": 8}, 1),
        ({"serve": "llama-server", "converter": ["convert"]}, 2),  # the graft and its GGUF file
    ],
)
def test_a_graft_that_is_written_while_it_is_served_counts(
    backend: dict[str, Any], models: int, tmp_path: Path
) -> None:
    evaluation = SERVED | {"backend": backend}
    found = plan_study(read_study(changed(tmp_path / "served.yaml", evaluation=evaluation)))
    plain = plan_study(read_study(changed(tmp_path / "plain.yaml", evaluation=SERVED))).disk
    served = found.disk
    assert (plain.served, served.served) == (0, models * SIZE_70B)
    assert served.peak == plain.peak + models * SIZE_70B
    assert served.none_kept == plain.none_kept
    lines = "\n".join(_disk_lines(found, 0))
    assert "while a server runs a graft, for each evaluation at a time" in lines


def test_what_is_served_from_another_disk_does_not_stop_a_study(tmp_path: Path) -> None:
    for folder, here in ((".", 1), ("/dev/shm", 0)):
        backend = {"serve": "vllm", "tensor_parallel": 8, "temporary": folder}
        evaluation = SERVED | {"backend": backend}
        plan = plan_study(read_study(changed(tmp_path / "served.yaml", evaluation=evaluation)))
        assert peak_here(plan) == plan.disk.none_kept + plan.disk.kept_grafts * SIZE_70B + here * SIZE_70B


def test_requests_and_hours_agree(large: Path) -> None:
    found = facts(large)
    for step in found["steps"]:
        requested = step["request"]
        longest = found["cluster"]["longest"]
        assert requested["minutes"] * 60 >= min(step["seconds"], longest * 60), step["name"]
        assert requested["mem_mb"] <= found["cluster"]["node_memory"] * 1000
        assert step["gpu_hours"] == step["hours"] * requested["gpus"]
    limit = found["cluster"]["longest"] * 60
    # layers of a 70B model on several GPUs are computed in turn, in the time of one GPU
    assert found["too_long"] == [step["name"] for step in found["steps"] if step["seconds"] > limit]
    assert found["too_long"] == ["evaluate"]


def test_what_does_not_fit_into_the_longest_job_is_said(tmp_path: Path) -> None:
    path = changed(tmp_path / "short.yaml", cluster={"gpus_per_node": 8, "node_memory": 1000, "longest": 40})
    assert facts(path)["too_long"] == ["fetch", "evaluate", "evaluate_base"]
    assert "evaluate: a job takes longer than the 40 minutes of cluster.longest" in run("study", path).stdout


def test_evaluation_is_priced_as_plan_prices_it(tmp_path: Path) -> None:
    """For one length and suite both ways give the same hours."""
    path = changed(tmp_path / "small.yaml", shape=f"{SHAPES}/llama3-8b.json")
    words = [
        *("evaluation", "llama3-8b", "--lengths", "1048576", "--depths", "0,25,50,75,100", "--samples", 10),
        *("--distractors", 4, "--fine-tunes", 3, "--rank", 32, "--rank", 128),
        *("--device-flops", 390e12, "--utilisation", 1, "--json"),
    ]
    (alone,) = json.loads(run(*words).stdout)["costs"]
    assert count_models(read_study(path)) == 14
    costs = {(line["suite"], line["length"]): line for line in facts(path)["evaluation"]}
    assert len(costs) == 2 + 2 + 1 + 1
    assert costs["needle", 2**20] == alone


@pytest.mark.parametrize("config", [["--config"], []], ids=["separate", "joined"])
def test_the_older_form_with_config_prints_the_same(
    large: Path, config: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*config, large] if config else [f"--config={large}"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
    assert run(*words, "--at-once", 2).stdout == run("study", large, "--at-once", 2).stdout
    assert run("--json", *words).stdout == run("study", large, "--json").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "x.yaml", "llama3-8b"], "unexpected extra argument"),
        (["llama3-8b", "--at-once", 2], "No such option '--at-once'"),
        (["evaluation", "llama3-8b", "--at-once", 2], "No such option '--at-once'"),
        (["--config", "x.yaml", "--samples", 3, "--rank", 8], "No such option '--samples'"),
        (["study", "x.yaml", "--samples", 3], "No such option '--samples'"),
        (["study"], "Missing argument 'STUDY'"),
        (["training", "x.yaml"], "Missing option '--base'"),
    ],
)
def test_each_subcommand_has_its_own_options(words: list[object], message: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert message in done.output


def test_a_file_that_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="not the configuration of a study"):
        run("study", tmp_path / "list.yaml")
